"""What a manifest says of a style-based generator beside its networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from services.families.latent import LatentSpec, Options

MAX_LAYERS = 64
MAX_ATTRIBUTES = 64

LayerIndex = Annotated[int, Field(ge=0, le=MAX_LAYERS - 1)]


class AttributeSpec(BaseModel):
    """A direction of w along which one thing in the image changes.

    Found by a linear classifier (InterFaceGAN, Shen et al., 2020, arXiv:1907.10786) or as a
    principal component (GANSpace, Härkönen et al., 2020, arXiv:2004.02546).

    Attributes:
        name: what requests call it.
        space: what the direction is of.
        direction: of w.
        unit: how far along the direction a strength of 1 goes.
        layers: first and last layer that it applies to, both counted; all where absent.
        source: how it was found.
        accuracy: of the classifier on held-out latents, in [0, 1].
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    space: Literal["w"] = "w"
    direction: Annotated[list[FiniteFloat], Field(min_length=1)]
    unit: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    layers: tuple[LayerIndex, LayerIndex] | None = None
    source: Literal["svm", "pca"]
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None


class StyleGanOptions(Options):
    """Options of a style-based generator's manifest.

    Attributes:
        latent: the shape of z.
        layers: layers that take a w of their own.
        style_channels: numbers of s that each layer takes, in their order.
        noise_size: numbers of noise of one image; 0 for a synthesis without noise.
        w_mean: the mean of w, towards which truncation leads.
        attributes: directions that requests can name.
    """

    latent: LatentSpec
    layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    style_channels: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    noise_size: Annotated[int, Field(ge=0)] = 0
    w_mean: Annotated[list[FiniteFloat], Field(min_length=1)]
    attributes: Annotated[tuple[AttributeSpec, ...], Field(max_length=MAX_ATTRIBUTES)] = ()

    @model_validator(mode="after")
    def _attributes_fit(self) -> Self:
        names = [attribute.name for attribute in self.attributes]
        if len(set(names)) != len(names):
            raise ValueError(f"an attribute is there twice: {', '.join(sorted(names))}")
        for attribute in self.attributes:
            first, last = attribute.layers or (0, self.layers - 1)
            if not first <= last < self.layers:
                raise ValueError(
                    f"attribute '{attribute.name}' is for layers {first} to {last}; there are "
                    f"{self.layers}, counted from 0"
                )
            if len(attribute.direction) != len(self.w_mean):
                raise ValueError(
                    f"the direction of '{attribute.name}' has {len(attribute.direction)} numbers; "
                    f"w has {len(self.w_mean)}"
                )
        return self

    @property
    def styles(self) -> int:
        """Numbers of s."""
        return sum(self.style_channels)

    @property
    def names(self) -> tuple[str, ...]:
        """What attributes are called, in the manifest's order."""
        return tuple(attribute.name for attribute in self.attributes)

    def attribute(self, name: str) -> AttributeSpec:
        """One attribute.

        Raises:
            KeyError: there is none of that name; requests are checked before.
        """
        return {attribute.name: attribute for attribute in self.attributes}[name]

    def described(self) -> dict[str, Any]:
        """What a model says of its spaces and attributes."""
        width = len(self.w_mean)
        return {
            "latent_shape": list(self.latent.shape),
            "latent_spaces": {
                "z": list(self.latent.shape),
                "w": [width],
                "w+": [self.layers, width],
                "s": [self.styles],
            },
            "layers": self.layers,
            "style_channels": list(self.style_channels),
            "attributes": list(self.names),
            "attribute_details": {
                attribute.name: attribute.model_dump(
                    mode="json", include={"unit", "layers", "source", "accuracy"}
                )
                for attribute in self.attributes
            },
        }
