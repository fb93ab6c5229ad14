"""What can be asked of a style-based generator, with bounds that hold for every model.

`offers` narrows them to what one model has: its layers, its styles, the names of its attributes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from services.core.parameters import Latents, Parameters, Seed
from services.families.latent import Count, Frames, PerImage
from services.families.stylegan.options import MAX_ATTRIBUTES, MAX_LAYERS, LayerIndex
from services.families.traversal import FARTHEST, LatentTraversal, only_one
from services.sampling.interpolation import lerp, slerp

MOST_STEPS = 500
MOST_CHANNELS = 256
LARGEST_DELTA = 1000.0

Space = Literal["z", "w", "w+", "s"]
GivenSpace = Annotated[
    Space | None,
    Field(
        description="What the latents are of: z (noise), w (one style), w+ (a style for each "
        "layer) or s (the numbers that each layer is modulated by). Their shape tells where it is "
        "absent, and where it fits both z and w they are of z."
    ),
]
Truncation = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Psi: how far from the mean of w an image may be. Below 1 images are more "
        "typical and less varied; 0 is the mean itself (Karras et al., 2019).",
    ),
]
NoiseStrength = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="Of the fine variation that the styles leave open, drawn by the seed. By "
        "default 1, and 0 for images of given latents or of an image.",
    ),
]
Spherical = Annotated[
    bool | None,
    Field(description="Along the great circle, not the straight line; by default in z alone."),
]
Strength = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]
Attributes = Annotated[
    dict[str, Strength],
    Field(
        max_length=MAX_ATTRIBUTES,
        description="By name, how far the image is moved along each attribute, in its own units.",
    ),
]
Layers = Annotated[
    list[LayerIndex] | None,
    Field(
        min_length=2,
        max_length=2,
        description="First and last layer that attributes apply to, counted from 0; by default "
        "each attribute's own.",
    ),
]
Delta = Annotated[float, Field(ge=-LARGEST_DELTA, le=LARGEST_DELTA)]
Channels = Annotated[
    dict[Annotated[int, Field(ge=0)], Delta],
    Field(
        max_length=MOST_CHANNELS,
        description="By index into s, what is added to that style (StyleSpace, Wu et al., 2021).",
    ),
]


class Styled(Parameters):
    """Base of what is drawn from styles: how close to the mean, and with how much noise."""

    truncation: Truncation = 1.0
    noise_strength: NoiseStrength = None


class Edited(Parameters):
    """Base of what moves an image along attributes, or changes single styles."""

    attributes: Attributes = Field(default_factory=dict)
    layers: Layers = None
    channels: Channels = Field(default_factory=dict)

    @model_validator(mode="after")
    def _layers_in_order(self) -> Self:
        if self.layers is not None and self.layers[0] > self.layers[1]:
            raise ValueError(f"layers are [first, last] in this order, got {self.layers}")
        return self

    @property
    def edits(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self.attributes or self.channels)


class Generate(Styled):
    """Parameters of ``generate``."""

    n: Count = 1
    latents: Latents | None = None
    latent_space: GivenSpace = None

    @model_validator(mode="after")
    def _space_of_something(self) -> Self:
        if self.latent_space is not None and self.latents is None:
            raise ValueError("latent_space says what the latents are of; there are none")
        return self

    def rows(self, images: int) -> int:  # noqa: ARG002 - an image is not a row of its own
        """One row per image to make."""
        return self.n


class Attribute(Edited, Generate):
    """Parameters of ``attribute``: an image moved along attributes, or with styles changed.

    The image is drawn by the seed, or is that of latents.
    """

    latents: Annotated[Latents | None, BeforeValidator(only_one)] = None


class AttributeOfImage(Attribute):
    """Parameters of ``attribute`` where an uploaded image can be encoded too."""

    images_needed: ClassVar[tuple[int, int]] = (0, 1)


class StyleMix(Styled):
    """Parameters of ``style_mix``: coarse layers of one image, fine layers of another.

    The two are ``seeds`` or ``latents``.
    """

    layer: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_LAYERS,
            description="The first layer that takes the second image's style.",
        ),
    ] = 0
    seeds: Annotated[list[Seed], Field(min_length=2, max_length=2)] | None = None
    latents: Annotated[list[Latents], Field(min_length=2, max_length=2)] | None = None
    latent_space: GivenSpace = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.seeds is not None and self.latents is not None:
            raise ValueError("give either seeds or latents")
        if self.latent_space is not None and self.latents is None:
            raise ValueError("latent_space says what the latents are of; there are none")
        return self

    def end_seeds(self) -> tuple[int, int]:
        """The seeds of both images when neither latents nor images were given."""
        if self.seeds is None:
            return self.seed, self.seed + 1
        return self.seeds[0], self.seeds[1]


class StyleMixImages(StyleMix):
    """Parameters of ``style_mix`` where uploaded images can be encoded too."""

    images_needed: ClassVar[tuple[int, int]] = (0, 2)


class Interpolate(Styled, Frames):
    """Parameters of ``interpolate``: images on the way from one latent to another.

    The noise is that of the first end all the way.
    """

    latent_space: Annotated[
        Space | None,
        Field(
            description="Where the way runs, and what latents are of. By default the space of the "
            "latents, w+ between images and w between seeds."
        ),
    ] = None
    spherical: Spherical = None  # type: ignore[assignment]  # what others take depends on no space

    def frame(self, start: Tensor, end: Tensor, index: int, *, in_z: bool) -> Tensor:
        """The latent of one frame; by default on the great circle in z, and straight elsewhere."""
        spherical = in_z if self.spherical is None else self.spherical
        return (slerp if spherical else lerp)(start, end, self.fraction(index))


class InterpolateImages(Interpolate):
    """Parameters of ``interpolate`` where images can be encoded."""

    images_needed: ClassVar[tuple[int, int]] = (0, 2)


class Traverse(Styled, LatentTraversal):
    """Parameters of ``traverse``: a strip of images along an attribute, or a number of the latent.

    Along an attribute a value is how far the image is moved, in its units; a number of the latent
    takes the value itself.
    """

    attribute: Annotated[
        str | None,
        Field(description="The attribute to go along; else the number at latent_index changes."),
    ] = None
    layers: Layers = None
    latent_space: Annotated[
        Space | None,
        Field(
            description="What the latents are of and latent_index counts in. By default the "
            "latents' own, w+ for an image and z for a seed."
        ),
    ] = None

    @model_validator(mode="after")
    def _one_thing_moves(self) -> Self:
        if self.attribute is not None and "latent_index" in self.model_fields_set:
            raise ValueError("give either an attribute or latent_index")
        if self.attribute is None and self.layers is not None:
            raise ValueError("layers go with an attribute")
        return self


class TraverseFromImage(Traverse):
    """Parameters of ``traverse`` where the image that the strip goes through can be encoded."""

    images_needed: ClassVar[tuple[int, int]] = (0, 1)


class Reconstruct(PerImage):
    """Parameters of ``reconstruct``: what the encoder finds in an image, drawn again.

    One image, one answer: a seed changes nothing.
    """


class Encode(PerImage):
    """Parameters of ``encode``: where an image lies in w+, and its styles.

    ``latents`` (of w+) and ``styles`` (of s) of the answer are latents that generate takes.
    """

    @classmethod
    def described(cls) -> dict[str, Any]:
        """See `Parameters.described`; ``x-gives`` is what the answer holds for each image."""
        return {**super().described(), "x-gives": ["latents", "latent_space", "styles"]}


class Invert(Edited, PerImage):
    """Parameters of ``invert``: the latents whose image is closest to the one given, by descent.

    The answer holds their image, with attributes applied if some are named, the latents of w+
    themselves and how close their own image is. One image, one answer: a seed changes nothing.
    """

    steps: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_STEPS,
            description="Evaluations of the generator; each but the last is followed by a step "
            "downhill.",
        ),
    ] = 100
