"""Progressive growing: one evaluation gives the image at every resolution of the growth.

Karras et al., 2018, arXiv:1710.10196, section 2 and figure 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional

from services.core.errors import InvalidManifest, InvalidParameter

FINEST = "image"
SMALLEST_SIDE, LARGEST_SIDE = 4, 1024


class GrowthSpec(BaseModel):
    """The sides of the images that a generator makes, each twice the one before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resolutions: Annotated[
        list[Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]], Field(min_length=2)
    ]

    @model_validator(mode="after")
    def _doubles(self) -> Self:
        if any(after != 2 * before for before, after in itertools.pairwise(self.resolutions)):
            raise ValueError("each of the resolutions must be twice the one before")
        return self

    def check(self, model_id: str, resolution: tuple[int, int]) -> None:
        """Refuse a manifest whose image is not the last of the growth.

        Raises:
            InvalidManifest: says which side it should have.
        """
        last = self.resolutions[-1]
        if resolution != (last, last):
            raise InvalidManifest(
                f"options of '{model_id}': growth ends at {last} x {last}, the manifest's "
                f"resolution is {resolution[0]} x {resolution[1]}"
            )

    @property
    def outputs(self) -> list[str]:
        """What the generator's outputs are called: ``image_8``, ``image_16`` ..., ``image``."""
        return [*(f"{FINEST}_{side}" for side in self.resolutions[:-1]), FINEST]

    def fields(self) -> dict[str, Any]:
        """The fields that a request says a stage of the growth with."""
        sides = Literal[(*self.resolutions,)]  # type: ignore[valid-type]  # a model's own sides
        resolution = Annotated[
            sides, Field(description="Side of the image, in pixels: a resolution of the growth.")
        ]
        alpha = Annotated[
            float,
            Field(
                ge=0,
                le=1,
                description="How much of this resolution has faded in: 0 is the one below, each "
                "pixel doubled.",
            ),
        ]
        return {"resolution": (resolution, self.resolutions[-1]), "alpha": (alpha, 1.0)}

    def check_fade(self, parameters: Any) -> None:
        """Refuse to fade in the smallest resolution: there is none below.

        Raises:
            InvalidParameter: says which resolutions can be faded in.
        """
        first, *grown = self.resolutions
        if parameters.alpha < 1.0 and parameters.resolution == first:
            raise InvalidParameter(
                f"alpha is {parameters.alpha:g}, but there is no resolution below {first} to fade "
                f"from; leave it out, or ask for resolution {', '.join(map(str, grown))}",
                param="alpha",
            )

    def shown(self, given: Mapping[str, Tensor], row: int, parameters: Any) -> Tensor:
        """The image of one row at the stage that its request names.

        Args:
            given: the generator's outputs, ``[n, channels, side, side]`` each.
            row: of the batch.
            parameters: with ``resolution`` and ``alpha``.

        Returns:
            ``[1, channels, resolution, resolution]``.
        """
        stage = self.resolutions.index(parameters.resolution)
        image = given[self.outputs[stage]][row : row + 1]
        if parameters.alpha == 1.0:
            return image
        below = given[self.outputs[stage - 1]][row : row + 1]
        doubled = functional.interpolate(below, scale_factor=2.0, mode="nearest")
        return torch.lerp(doubled, image, parameters.alpha)

    def limits(self) -> dict[str, Any]:
        """What the model says of its growth."""
        return {"resolutions": self.resolutions}
