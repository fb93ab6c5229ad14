"""What a VAE's manifest may say of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.families.latent import LatentSpec, Options
from services.families.likelihood import ReferenceSettings

Scale = Annotated[float, Field(gt=0)]
MAX_LEVELS = 32


class Observation(BaseModel):
    """How pixels scatter around the decoder's output; ``scale`` is in 8-bit pixel units.

    It is one number, or one for each value of the image, by channel, row and column.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: Literal["discretized_logistic"] = "discretized_logistic"
    scale: Scale | Annotated[list[Scale], Field(min_length=1)]


class Noise(BaseModel):
    """What a model was shown to take away; ``std`` is in 8-bit pixel units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: Literal["gaussian"] = "gaussian"
    std: Annotated[float, Field(gt=0, le=255)]


class VaeOptions(Options):
    """Options of a VAE's manifest.

    ``levels`` are the sizes of a hierarchical model's levels from the top down, which follow one
    another in its latent.
    """

    latent: LatentSpec | None = None
    levels: Annotated[
        list[Annotated[int, Field(ge=1)]] | None, Field(min_length=2, max_length=MAX_LEVELS)
    ] = None
    observation: Observation | None = None
    noise: Noise | None = None
    reference_log_likelihoods: list[float] | None = None
    reference_corrected_bits_per_dim: list[float] | None = None
    reference_settings: ReferenceSettings = Field(default_factory=dict)
