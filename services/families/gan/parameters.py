"""What can be asked of a GAN."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.core.parameters import Latents, Parameters
from services.families.latent import Count, Frames

Truncation = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Below 1, the latent's values are drawn within 2 * truncation of the mean: "
        "more typical images, less variety (Brock et al., 2019).",
    ),
]


class Generate(Parameters):
    """Parameters of ``generate`` for an unconditional GAN."""

    n: Count = 1
    truncation: Truncation = 1.0
    latents: Latents | None = None

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One row per image to make."""
        return self.n


class Interpolate(Frames):
    """Parameters of ``interpolate`` for an unconditional GAN."""

    truncation: Truncation = 1.0


Label = Annotated[
    int | str | None,
    Field(description="One of the model's labels, by name or index; drawn by the seed if absent."),
]


class GenerateLabeled(Generate):
    """Parameters of ``generate`` for a GAN conditioned on a label."""

    label: Label = None


class InterpolateLabeled(Interpolate):
    """Parameters of ``interpolate`` for a GAN conditioned on a label."""

    label: Label = None
