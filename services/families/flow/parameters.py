"""What can be asked of a flow."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from services.core.parameters import Latents, Parameters
from services.families.latent import MAX_IMAGES, Count, FramesFromImages, Temperature

MAX_SAMPLES = 1024


class Generate(Parameters):
    """Parameters of ``generate``: the inverse of draws from the base distribution."""

    n: Count = 1
    temperature: Temperature = 1.0
    latents: Latents | None = None

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One row per image to make."""
        return self.n


class Interpolate(FramesFromImages):
    """Parameters of ``interpolate``."""


class _PerImage(Parameters):
    images_needed: ClassVar[tuple[int, int]] = (1, MAX_IMAGES)
    row_per_image: ClassVar[bool] = True


class Reconstruct(_PerImage):
    """Parameters of ``reconstruct``: through the flow and back, which changes nothing."""


class Encode(_PerImage):
    """Parameters of ``encode``: the image's place in the base distribution."""


class Likelihood(_PerImage):
    """Parameters of ``likelihood``."""

    samples: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_SAMPLES,
            description="1: the exact density at the centre of each pixel's bin. More: the mean "
            "density over that many uniform draws within the bins, an estimate of the 8-bit "
            "image's probability mass.",
        ),
    ] = 1
