"""``traverse``: a strip of images along which one value of the latent changes and no other."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from services.core.errors import InvalidParameter
from services.core.job import Call
from services.core.parameters import MAX_LATENT_VALUES, Latents, Parameters
from services.families.latent import MAX_FRAMES

REACH = 2.0
"""How far a strip goes to either side of zero: 95% of what a standard normal draws."""
FARTHEST = 100.0

Value = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]


def only_one(given: Any) -> Any:
    """The latents of a list of one: what has several elsewhere comes as a list."""
    return given[0] if isinstance(given, list) and len(given) == 1 else given


class Traversal(Parameters):
    """Base of ``traverse``: which values the chosen number takes, one image each.

    They are either ``values`` themselves, or ``n`` of them evenly over ``range``. All else of the
    latent stays as ``latents`` say or as ``seed`` draws it, the same in every image.
    """

    n: Annotated[int, Field(ge=2, le=MAX_FRAMES, description="Images, both ends included.")] = 8
    range: (
        Annotated[
            list[Value],
            Field(min_length=2, max_length=2, description="First and last value of the strip."),
        ]
        | None
    ) = None
    values: (
        Annotated[
            list[Value],
            Field(min_length=1, max_length=MAX_FRAMES, description="The values, one image each."),
        ]
        | None
    ) = None
    latents: Annotated[Latents | None, BeforeValidator(only_one)] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.values is not None and (self.range is not None or "n" in self.model_fields_set):
            raise ValueError("give either values, or range and n")
        return self

    def rows(self, images: int) -> int:  # noqa: ARG002 - an image says where the strip stands
        """One row per value."""
        return len(self.strip())

    def strip(self) -> list[float]:
        """Every value that the chosen number takes, in order."""
        if self.values is not None:
            return list(self.values)
        return self.evenly(*(self.range if self.range is not None else (-REACH, REACH)))

    def evenly(self, first: float, last: float) -> list[float]:
        """``n`` values from the first to the last."""
        return [first + (last - first) * i / (self.n - 1) for i in range(self.n)]


class LatentTraversal(Traversal):
    """``traverse`` along one number of a latent, counted from 0 in row-major order."""

    latent_index: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_LATENT_VALUES - 1,
            description="Which number of the latent changes, counted from 0.",
        ),
    ] = 0

    def moved(self, latent: Tensor, index: int) -> Tensor:
        """The latent of one image of the strip; the latent given is left as it is.

        Args:
            latent: of one image, of any shape.
            index: the image's place in the strip.

        Raises:
            InvalidParameter: the latent has no number at ``latent_index``.
        """
        if self.latent_index >= latent.numel():
            raise InvalidParameter(
                f"latent_index is {self.latent_index}; this model's latents have "
                f"{latent.numel()} numbers, counted from 0",
                param="latent_index",
            )
        changed = latent.clone().contiguous()
        changed.view(-1)[self.latent_index] = self.strip()[index]
        return changed


class LatentTraversalFromImage(LatentTraversal):
    """``traverse`` for a model that can encode the image that the strip goes through."""

    images_needed: ClassVar[tuple[int, int]] = (0, 1)


def check_traversal(call: Call, parameters: Traversal) -> None:
    """Refuse an image together with another source of the latent.

    Raises:
        InvalidParameter: says what would be right.
    """
    if call.images and parameters.latents is not None:
        raise InvalidParameter("give either an image or latents, or neither", param="images")


def traversal_values(parameters: Traversal, index: int) -> dict[str, Any]:
    """What an image of a strip says of itself.

    ``value`` is what the chosen number was, ``seed`` what the whole strip was drawn by: images of a
    strip are one draw, so their seeds do not count up.
    """
    return {"seed": parameters.seed, "value": parameters.strip()[index]}
