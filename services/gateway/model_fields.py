"""The fields of requests that only some kinds of model know, by that kind.

A model of another kind refuses them: its engine has no such parameter.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.gateway.fields import Fraction, ImageText, ShortText, Temperature, Text

# Autoregressive models of codes, and hierarchies of latents.

Codes = Annotated[
    list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=65536)
]
TopK = Annotated[int, Field(ge=0, le=1 << 16, description="Models of codes: 0 is all.")]
TopP = Annotated[float, Field(gt=0, le=1, description="Models of codes: 1 is all.")]
Temperatures = Annotated[
    list[Temperature],
    Field(min_length=1, max_length=64, description="One for each level, top down."),
]
Levels = Annotated[int, Field(ge=1, le=64, description="Reconstruct: levels read from the image.")]

# GANs that learned codes of their own (InfoGAN), and those that grew.

Category = Annotated[
    int, Field(ge=0, le=2**31, description="The categorical code, for models that learned one.")
]
Continuous = Annotated[
    list[float],
    Field(
        min_length=1,
        max_length=1024,
        description="The continuous codes, for models that learned some.",
    ),
]
GrownResolution = Annotated[
    int,
    Field(ge=4, le=1024, description="GANs that grew: side of the image, one of the growth."),
]
FadedIn = Annotated[
    Fraction,
    Field(description="GANs that grew: how much of that resolution has faded in."),
]

# Style-based GANs.

LatentSpace = Annotated[
    Literal["z", "w", "w+", "s"], Field(description="Style-based GANs: what latents are of.")
]
NoiseStrength = Annotated[Fraction, Field(description="Style-based GANs: of the fine variation.")]
LayerIndex = Annotated[int, Field(ge=0, le=64)]
LayerRange = Annotated[
    list[LayerIndex],
    Field(min_length=2, max_length=2, description="First and last that attributes reach."),
]
MixedFrom = Annotated[LayerIndex, Field(description="Style mix: the first of the second image's.")]
Channels = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,7}$")], float],
    Field(max_length=256, description="By index into a model's styles, what is added."),
]

# Models with a latent space to walk in.

Attributes = Annotated[
    dict[ShortText, float],
    Field(max_length=64, description="How far along each of a model's attributes."),
]
TraversedAttribute = Annotated[
    str, Field(max_length=64, description="Traverse: the attribute to go along.")
]
TraversedCode = Annotated[str, Field(max_length=64, description="Traverse: which code varies.")]
TraversedRange = Annotated[
    list[float],
    Field(min_length=2, max_length=2, description="Traverse: first and last value."),
]
TraversedValues = Annotated[
    list[float],
    Field(min_length=1, max_length=64, description="Traverse: one image for each."),
]

# Diffusion models.

GuidanceInterval = Annotated[
    list[Fraction],
    Field(min_length=2, max_length=2, description="Where on the way guidance applies."),
]
Margin = Annotated[
    int, Field(ge=0, le=65536, description="Pixels of the answer made anew on this side.")
]
Canvas = Annotated[
    Literal["keep", "grow"],
    Field(description="Outpaint: whether the answer has the model's size, or is larger."),
]
AdapterName = Annotated[
    str, Field(min_length=1, max_length=64, description="See `adapters` of the model.")
]


class WeightedPrompt(BaseModel):
    """One of several prompts that are composed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Text
    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0


class AdapterUse(BaseModel):
    """A LoRA of the model, and how strongly it is applied."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: AdapterName
    scale: Annotated[float, Field(ge=-4, le=4, description="1 as it was trained.")] | None = None


class ControlUse(BaseModel):
    """A ControlNet of the model with the image that it follows."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: AdapterName
    image: ImageText
    scale: Annotated[float, Field(ge=0, le=4)] | None = None
    start: Annotated[Fraction, Field(description="Share of the way where it begins.")] | None = None
    end: Annotated[Fraction, Field(description="Share of the way where it ends.")] | None = None


Prompts = Annotated[
    list[WeightedPrompt],
    Field(min_length=1, max_length=64, description="Several prompts, composed by weight."),
]
Adapters = Annotated[
    list[AdapterUse],
    Field(
        min_length=1,
        max_length=16,
        description="LoRAs registered for the model; see its `adapters`.",
    ),
]
Control = Annotated[
    list[ControlUse],
    Field(
        min_length=1,
        max_length=16,
        description="ControlNets registered for the model, each with an image.",
    ),
]
