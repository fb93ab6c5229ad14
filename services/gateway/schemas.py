"""The bodies of requests, as their JSON schemas show them.

What is bounded here holds for every model. Each model's engine checks the rest against itself,
which is why fields that the client left out are not filled in and not sent on. The bounds that an
operator sets are in `services.gateway.limits`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.core.job import ImageFormat
from services.core.parameters import Latents, Seed
from services.core.versions import LONGEST_REFERENCE

SIZE_PATTERN = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"

Text = Annotated[str, Field(description="What the image shows, for models of text.")]
ModelId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_REFERENCE,
        description="A model's name, or name@digest for one version of it; see GET /v1/models.",
    ),
]
Label = Annotated[
    str | Annotated[int, Field(ge=0, le=2**31)],
    Field(description="A label of the model, or its index, for models of labels."),
]
ShortText = Annotated[str, Field(max_length=64)]
Factors = Annotated[
    dict[ShortText, ShortText],
    Field(max_length=32, description="Named attributes, for models that know them."),
]
Codes = Annotated[
    list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=65536)
]
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
Steps = Annotated[int, Field(ge=1, description="Network evaluations from noise to image.")]
Number = Annotated[int, Field(ge=1, description="How many images; image i uses seed + i.")]
Guidance = Annotated[float, Field(ge=0, le=100, description="1 means no guidance.")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[
    int, Field(ge=0, le=65536, description="Pixels of the answer made anew on this side.")
]
ImageText = Annotated[str, Field(description="A PNG, JPEG or WebP in base64, or as a data: URL.")]
Images = Annotated[list[ImageText], Field(min_length=1)]
Size = Annotated[
    str,
    Field(
        pattern=SIZE_PATTERN,
        description='"WIDTHxHEIGHT"; must be the model\'s own, or "auto".',
    ),
]
LatentSpace = Annotated[
    Literal["z", "w", "w+", "s"], Field(description="Style-based GANs: what latents are of.")
]
LayerIndex = Annotated[int, Field(ge=0, le=64)]
Deadline = Annotated[
    float, Field(gt=0, description="Seconds from arrival within which the answer is of use.")
]
ResponseKind = Annotated[
    Literal["image", "json", "stream"],
    Field(description='Overrides the Accept header. "stream" answers with text/event-stream.'),
]
PreviewEvery = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        description="In a stream: a preview of every image after each so many evaluations.",
    ),
]

InFile = Annotated[
    bool,
    Field(description="Whether the image's file holds the parameters that it was made by."),
]

Operation = Literal[
    "variation",
    "inpaint",
    "outpaint",
    "interpolate",
    "attribute",
    "style_mix",
    "super_resolution",
    "translate",
    "reconstruct",
    "denoise",
    "invert",
    "traverse",
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


class CallRequest(BaseModel):
    """What every call has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: ModelId
    prompt: Text | None = None
    label: Label | None = None
    factors: Factors | None = None
    seed: Seed | None = None
    deadline: Deadline | None = None


class ImageRequest(CallRequest):
    """What every call that makes images has."""

    codes: Codes | None = None
    category: Category | None = None
    continuous: Continuous | None = None
    resolution: (
        Annotated[
            int,
            Field(
                ge=4, le=1024, description="GANs that grew: side of the image, one of the growth."
            ),
        ]
        | None
    ) = None
    alpha: (
        Annotated[
            Fraction,
            Field(description="GANs that grew: how much of that resolution has faded in."),
        ]
        | None
    ) = None
    negative_prompt: str | None = None
    n: Number | None = None
    steps: Steps | None = None
    sampler: Annotated[str, Field(max_length=32)] | None = None
    sigma_schedule: Annotated[str, Field(max_length=32)] | None = None
    guidance_scale: Guidance | None = None
    guidance_interval: (
        Annotated[
            list[Fraction],
            Field(min_length=2, max_length=2, description="Where on the way guidance applies."),
        ]
        | None
    ) = None
    guidance_rescale: Fraction | None = None
    classifier_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    adaptive_guidance: Annotated[float, Field(ge=-1, le=1)] | None = None
    dynamic_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    step_cache: Annotated[float, Field(gt=0, le=1)] | None = None
    prompts: (
        Annotated[
            list[WeightedPrompt],
            Field(min_length=1, max_length=64, description="Several prompts, composed by weight."),
        ]
        | None
    ) = None
    adapters: (
        Annotated[
            list[AdapterUse],
            Field(
                min_length=1,
                max_length=16,
                description="LoRAs registered for the model; see its `adapters`.",
            ),
        ]
        | None
    ) = None
    control: (
        Annotated[
            list[ControlUse],
            Field(
                min_length=1,
                max_length=16,
                description="ControlNets registered for the model, each with an image.",
            ),
        ]
        | None
    ) = None
    truncation: Annotated[float, Field(ge=0, le=10)] | None = None
    noise_strength: (
        Annotated[Fraction, Field(description="Style-based GANs: of the fine variation.")] | None
    ) = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    temperatures: (
        Annotated[
            list[Annotated[float, Field(ge=0, le=10)]],
            Field(min_length=1, max_length=64, description="One for each level, top down."),
        ]
        | None
    ) = None
    top_k: (
        Annotated[int, Field(ge=0, le=1 << 16, description="Models of codes: 0 is all.")] | None
    ) = None
    top_p: Annotated[float, Field(gt=0, le=1, description="Models of codes: 1 is all.")] | None = (
        None
    )
    size: Size | None = None
    output_format: ImageFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    response: ResponseKind | None = None
    preview_every: PreviewEvery | None = None
    metadata: InFile | None = None


Cascade = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="A model that enlarges what this one makes, in the same request: one whose "
        "operations have super_resolution.",
    ),
]


class GenerateRequest(ImageRequest):
    """Make images from noise, and from a condition where the model takes one."""

    cascade: Cascade | None = None
    latents: Latents | None = None
    latent_space: LatentSpace | None = None
    variation_seed: Seed | None = None
    variation_strength: Fraction | None = None


class EditRequest(ImageRequest):
    """Make images from images, or from places in the model's latent space."""

    operation: Operation
    image: ImageText | Images | None = None
    images: Images | None = None
    mask: ImageText | None = None
    seeds: Annotated[list[Seed], Field(min_length=2, max_length=2)] | None = None
    latents: Latents | Annotated[list[Latents], Field(min_length=1, max_length=2)] | None = None
    latent_space: LatentSpace | None = None
    latent_index: Annotated[int, Field(ge=0)] | None = None
    attributes: (
        Annotated[
            dict[ShortText, float],
            Field(max_length=64, description="How far along each of a model's attributes."),
        ]
        | None
    ) = None
    attribute: (
        Annotated[str, Field(max_length=64, description="Traverse: the attribute to go along.")]
        | None
    ) = None
    channels: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,7}$")], float],
            Field(max_length=256, description="By index into a model's styles, what is added."),
        ]
        | None
    ) = None
    layers: (
        Annotated[
            list[LayerIndex],
            Field(min_length=2, max_length=2, description="First and last that attributes reach."),
        ]
        | None
    ) = None
    layer: (
        Annotated[LayerIndex, Field(description="Style mix: the first of the second image's.")]
        | None
    ) = None
    code: (
        Annotated[str, Field(max_length=64, description="Traverse: which code varies.")] | None
    ) = None
    range: (
        Annotated[
            list[float],
            Field(min_length=2, max_length=2, description="Traverse: first and last value."),
        ]
        | None
    ) = None
    values: (
        Annotated[
            list[float],
            Field(min_length=1, max_length=64, description="Traverse: one image for each."),
        ]
        | None
    ) = None
    fractions: Annotated[list[Fraction], Field(min_length=1, max_length=64)] | None = None
    strength: Fraction | None = None
    spherical: bool | None = None
    end_prompt: Text | None = None
    source_prompt: Text | None = None
    left: Margin | None = None
    top: Margin | None = None
    right: Margin | None = None
    bottom: Margin | None = None
    canvas: (
        Annotated[
            Literal["keep", "grow"],
            Field(description="Outpaint: whether the answer has the model's size, or is larger."),
        ]
        | None
    ) = None
    sample: bool | None = None
    levels: (
        Annotated[int, Field(ge=1, le=64, description="Reconstruct: levels read from the image.")]
        | None
    ) = None


class LikelihoodRequest(CallRequest):
    """Ask how probable images are under a model."""

    image: ImageText | Images | None = None
    images: Images | None = None
    samples: Annotated[int, Field(ge=1, description="Samples for bounds and estimates.")] | None = (
        None
    )
    steps: Steps | None = None
    method: Annotated[str, Field(max_length=32, description="Diffusion: bound or ode.")] | None = (
        None
    )
    probes: Annotated[int, Field(ge=1, description="Method ode: estimates averaged.")] | None = None
    solver: Annotated[str, Field(max_length=32, description="Method ode.")] | None = None
    tolerance: Annotated[float, Field(gt=0, description="Solver dopri5.")] | None = None


class EncodeRequest(CallRequest):
    """Find the latents of images, which generate and edit take again."""

    image: ImageText | Images | None = None
    images: Images | None = None
    steps: Steps | None = None


class OpenAIImageRequest(BaseModel):
    """What OpenAI's bodies for images share, and the service's own knobs beside it.

    Fields that OpenAI has and no model here needs (quality, style, user, background, moderation
    ...) are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    model: ModelId | None = None
    n: Number | None = None
    size: Size | None = None
    output_format: ImageFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: (
        Annotated[int, Field(ge=0, le=3, description="Previews of each image of a stream.")] | None
    ) = None
    seed: Seed | None = None
    steps: Steps | None = None
    guidance_scale: Guidance | None = None
    negative_prompt: str | None = None
    sampler: Annotated[str, Field(max_length=32)] | None = None
    deadline: Deadline | None = None
    metadata: InFile | None = None


class OpenAIGenerationRequest(OpenAIImageRequest):
    """OpenAI's body for images from a prompt."""

    prompt: Text


class OpenAIEditRequest(OpenAIImageRequest):
    """OpenAI's body for images from an image: with a mask what it marks, else all of it."""

    prompt: Text
    image: ImageText | Images | None = None
    images: Images | None = None
    mask: ImageText | None = None
    strength: Fraction | None = None


class OpenAIVariationRequest(OpenAIImageRequest):
    """OpenAI's body for variations of an image."""

    prompt: Text | None = None
    image: ImageText | Images | None = None
    images: Images | None = None
    strength: Fraction | None = None
