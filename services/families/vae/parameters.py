"""What can be asked of a VAE."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from services.families.latent import (
    Frames,
    FramesFromImages,
    FromPrior,
    PerImage,
    Temperature,
)
from services.families.traversal import LatentTraversal, LatentTraversalFromImage
from services.families.vae.options import MAX_LEVELS

MAX_SAMPLES = 1024


class Generate(FromPrior):
    """Parameters of ``generate``: decode draws from the prior."""


class GenerateLevels(FromPrior):
    """Parameters of ``generate`` for a model of several levels."""

    temperatures: (
        Annotated[
            list[Temperature],
            Field(
                min_length=2,
                max_length=MAX_LEVELS,
                description="A temperature for each level, from the top down, instead of one.",
            ),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.temperatures is None:
            return self
        if "temperature" in self.model_fields_set:
            raise ValueError("give either temperature or temperatures")
        if self.latents is not None:
            raise ValueError("latents are decoded as they are; leave temperatures out")
        return self


class Interpolate(FramesFromImages):
    """Parameters of ``interpolate``."""


class InterpolateSeeds(Frames):
    """Parameters of ``interpolate`` for a decoder alone."""


class InterpolateCodes(FramesFromImages):
    """Parameters of ``interpolate`` between two images or two latents, where nothing is drawn."""

    seeds: SkipJsonSchema[None] = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _nothing_to_draw(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("this model has no prior to draw from; give two images or two latents")


class Traverse(LatentTraversalFromImage):
    """Parameters of ``traverse``."""


class TraverseDrawn(LatentTraversal):
    """Parameters of ``traverse`` for a decoder alone."""


class ReconstructMean(PerImage):
    """Parameters of ``reconstruct`` where an image has one code: encode and decode again."""


class Reconstruct(PerImage):
    """Parameters of ``reconstruct``: encode and decode again."""

    sample: Annotated[
        bool, Field(description="Decode a draw from the posterior instead of its mean.")
    ] = False


class ReconstructLevels(Reconstruct):
    """Parameters of ``reconstruct`` for a model of several levels."""

    levels: (
        Annotated[
            int,
            Field(
                ge=1,
                le=MAX_LEVELS,
                description="How many levels, from the top down, are read from the image; those "
                "below follow the prior: its mean, or with `sample` a draw. All of them if absent.",
            ),
        ]
        | None
    ) = None


class Denoise(PerImage):
    """Parameters of ``denoise``: encode a noisy image and decode it again."""


class Encode(PerImage):
    """Parameters of ``encode``: the posterior's mean and log variance, or the code."""


class Likelihood(PerImage):
    """Parameters of ``likelihood``: the importance-weighted bound of K samples."""

    samples: Annotated[
        int,
        Field(ge=1, le=MAX_SAMPLES, description="Draws from the posterior, K; more are tighter."),
    ] = 64
