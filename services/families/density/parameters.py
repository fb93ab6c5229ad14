"""What can be asked of a density."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.core.parameters import Latents, Parameters
from services.families.latent import Count, FramesFromImages, PerImage, Temperature

MAX_SAMPLES = 1024

Samples = Annotated[
    int,
    Field(
        ge=1,
        le=MAX_SAMPLES,
        description="1: the exact density at the centre of each pixel's bin. More: the mean "
        "density over that many uniform draws within the bins, an estimate of the 8-bit image's "
        "probability mass.",
    ),
]


class Generate(Parameters):
    """Parameters of ``generate``: a component drawn by its weight, then an image by its density."""

    n: Count = 1
    temperature: Temperature = 1.0

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One row per image to make."""
        return self.n


class GenerateLabeled(Generate):
    """Parameters of ``generate`` where each component is a class."""

    label: Annotated[
        int | str | None,
        Field(description="A class, by name or number; drawn by the seed if absent."),
    ] = None


class GenerateSingle(Generate):
    """Parameters of ``generate`` for a single Gaussian."""

    latents: Latents | None = None


class Likelihood(PerImage):
    """Parameters of ``likelihood`` for densities of the line."""

    samples: Samples = 1


Given = Annotated[
    int | str | None,
    Field(
        description="A class, by name or number: the likelihood under it alone. If absent, under "
        "all of them by their priors."
    ),
]


class LikelihoodLabeled(Likelihood):
    """Parameters of ``likelihood`` where each component is a class."""

    label: Given = None


class Mass(PerImage):
    """Parameters of ``likelihood`` for images of black and white pixels: a probability."""


class MassLabeled(Mass):
    """As `Mass`, where each component is a class."""

    label: Given = None


class Interpolate(FramesFromImages):
    """Parameters of ``interpolate`` for a single Gaussian."""


class Encode(PerImage):
    """Parameters of ``encode`` for a single Gaussian: the image's place in the standard normal."""
