"""What can be asked of a GAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, create_model

from services.core.parameters import Latents, Parameters
from services.families.latent import Count, Frames, PerImage
from services.families.traversal import LatentTraversal

P = TypeVar("P", bound=Parameters)

Truncation = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Below 1, the latent's values are drawn within 2 * truncation of the mean: "
        "more typical images, less variety (Brock et al., 2019).",
    ),
]
Label = Annotated[
    int | str | None,
    Field(description="One of the model's labels, by name or index; drawn by the seed if absent."),
]
LABEL_FIELDS: Mapping[str, Any] = {"label": (Label, None)}
"""What a request says a label with."""


class Generate(Parameters):
    """Parameters of ``generate``."""

    n: Count = 1
    truncation: Truncation = 1.0
    latents: Latents | None = None

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One row per image to make."""
        return self.n


class Interpolate(Frames):
    """Parameters of ``interpolate``."""

    truncation: Truncation = 1.0


class InterpolateImages(Interpolate):
    """Parameters of ``interpolate`` where images can be encoded."""

    images_needed: ClassVar[tuple[int, int]] = (0, 2)


class Traverse(LatentTraversal):
    """Parameters of ``traverse``: a strip along which one number of the latent changes."""

    truncation: Truncation = 1.0


class TraverseFromImage(Traverse):
    """Parameters of ``traverse`` where the image that the strip goes through can be encoded."""

    images_needed: ClassVar[tuple[int, int]] = (0, 1)


class Reconstruct(PerImage):
    """Parameters of ``reconstruct``: encode and generate again."""


class Encode(PerImage):
    """Parameters of ``encode``: what the model's networks read in an image.

    Latents where it has an encoder, codes where it has a recognition network, ``realness`` where it
    has a critic.
    """

    gives: ClassVar[tuple[str, ...]] = ()
    """What the answer holds for each image."""

    @classmethod
    def described(cls) -> dict[str, Any]:
        """See `Parameters.described`; ``x-gives`` is what the answer holds for each image."""
        return {**super().described(), "x-gives": list(cls.gives)}


def conditioned(base: type[P], fields: Mapping[str, Any]) -> type[P]:
    """An operation's parameters with the fields that a model's condition is said with.

    Args:
        base: of the operation.
        fields: as `pydantic.create_model` takes them; there may be none.
    """
    if not fields:
        return base
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **fields)


def encode_giving(names: tuple[str, ...]) -> type[Encode]:
    """The parameters of ``encode`` for a model whose answers hold these values."""
    kind = create_model("Encode", __base__=Encode, __doc__=Encode.__doc__)
    kind.gives = names
    return kind
