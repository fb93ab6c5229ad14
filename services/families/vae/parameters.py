"""What can be asked of a VAE."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from services.core.parameters import Latents, Parameters
from services.families.latent import MAX_IMAGES, Count, Frames, FramesFromImages, Temperature

MAX_SAMPLES = 1024


class Generate(Parameters):
    """Parameters of ``generate``: decode draws from the prior."""

    n: Count = 1
    temperature: Temperature = 1.0
    latents: Latents | None = None

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One row per image to make."""
        return self.n


class Interpolate(FramesFromImages):
    """Parameters of ``interpolate``."""


class InterpolateSeeds(Frames):
    """Parameters of ``interpolate`` for a decoder alone."""


class _PerImage(Parameters):
    images_needed: ClassVar[tuple[int, int]] = (1, MAX_IMAGES)
    row_per_image: ClassVar[bool] = True


class Reconstruct(_PerImage):
    """Parameters of ``reconstruct``: encode and decode again."""

    sample: Annotated[
        bool, Field(description="Decode a draw from the posterior instead of its mean.")
    ] = False


class Encode(_PerImage):
    """Parameters of ``encode``: the posterior's mean and log variance."""


class Likelihood(_PerImage):
    """Parameters of ``likelihood``: the importance-weighted bound of K samples."""

    samples: Annotated[
        int,
        Field(ge=1, le=MAX_SAMPLES, description="Draws from the posterior, K; more are tighter."),
    ] = 64
