"""What an autoregressive model's manifest says beyond its networks."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.core.engine import REHEARSED_STEPS
from services.core.vocabulary import Vocabulary
from services.families.autoregressive.parameters import Guidance, Temperature, TopK, TopP
from services.families.latent import Options

MAX_CODES = 1 << 16
MAX_LENGTH = 4096
Side = Annotated[int, Field(ge=1, le=64)]


class Level(BaseModel):
    """A grid of codes, ``[height, width]``; it is written row by row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Annotated[list[Side], Field(min_length=2, max_length=2)]

    @property
    def cells(self) -> int:
        """Codes of one image at this level."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """As the terms of a likelihood call it."""
        return "codes_" + "x".join(str(side) for side in self.shape)


class Defaults(BaseModel):
    """How codes are drawn where a request does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    guidance_scale: Guidance = 1.0


class AutoregressiveOptions(Options):
    """Options of the manifest.

    Attributes:
        codes: how many different codes there are, at every level.
        levels: grids of codes in the order in which they are written, the coarsest first.
        tokenizer: reads prompts, of a model that is told words.
        labels: of a model that is told a label; with neither it is told nothing.
        defaults: see there.
        reference_log_likelihoods: ascending quantiles, in nats of an image's codes, told nothing.
        reference_corrected_bits_per_dim: the same of corrected bits per dimension of the image.
    """

    codes: Annotated[int, Field(ge=2, le=MAX_CODES)]
    levels: Annotated[list[Level], Field(min_length=1, max_length=8)]
    tokenizer: Vocabulary | None = None
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    defaults: Defaults = Defaults()
    reference_log_likelihoods: list[float] | None = None
    reference_corrected_bits_per_dim: list[float] | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if self.tokenizer is not None and self.labels is not None:
            raise ValueError("give either a tokenizer or labels")
        return self

    @model_validator(mode="after")
    def _length_fits(self) -> Self:
        if not REHEARSED_STEPS <= self.length <= MAX_LENGTH:
            raise ValueError(
                f"an image must be {REHEARSED_STEPS} to {MAX_LENGTH} codes, not {self.length}"
            )
        return self

    @property
    def length(self) -> int:
        """Codes of one image, all levels together."""
        return sum(level.cells for level in self.levels)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of an image's codes as they are sent: a grid, or of several levels one after another."""
        return tuple(self.levels[0].shape) if len(self.levels) == 1 else (self.length,)
