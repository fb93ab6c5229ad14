"""What can be asked of a super-resolution model."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from services.core.parameters import Parameters
from services.families.latent import Count
from services.sampling.samplers import SamplerName


class SuperResolve(Parameters):
    """Parameters of ``super_resolution``: the image at a multiple of its own size.

    Every seed makes other detail. One step makes the mean of all of it, which is smoother and on
    average closer to the truth than any one of them.
    """

    images_needed: ClassVar[tuple[int, int]] = (1, 1)

    n: Count = 1
    steps: (
        Annotated[
            int, Field(ge=1, le=1000, description="Steps of the sampler; 1: the mean, smooth.")
        ]
        | None
    ) = None
    sampler: SamplerName | None = None

    def rows(self, images: int) -> int:  # noqa: ARG002 - every row starts from the same image
        """One row per image to make."""
        return self.n
