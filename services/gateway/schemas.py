"""The bodies of the service's own routes, as their JSON schemas show them.

What is bounded here holds for every model. Each model's engine checks the rest against itself,
which is why fields that the client left out are not filled in and not sent on. The bounds that an
operator sets are in `services.gateway.limits`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.core.job import ImageFormat
from services.core.parameters import Latents, Seed
from services.gateway.fields import (
    Cascade,
    Compression,
    Deadline,
    Factors,
    Fraction,
    Guidance,
    Images,
    ImageText,
    InFile,
    Label,
    ModelId,
    Number,
    PreviewEvery,
    ResponseKind,
    ShortName,
    Size,
    Steps,
    Temperature,
    Text,
)
from services.gateway.model_fields import (
    Adapters,
    Attributes,
    Canvas,
    Category,
    Channels,
    Codes,
    Continuous,
    Control,
    FadedIn,
    GrownResolution,
    GuidanceInterval,
    LatentSpace,
    LayerRange,
    Levels,
    Margin,
    MixedFrom,
    NoiseStrength,
    Prompts,
    Temperatures,
    TopK,
    TopP,
    TraversedAttribute,
    TraversedCode,
    TraversedRange,
    TraversedValues,
)

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
    resolution: GrownResolution | None = None
    alpha: FadedIn | None = None
    negative_prompt: str | None = None
    n: Number | None = None
    steps: Steps | None = None
    sampler: ShortName | None = None
    sigma_schedule: ShortName | None = None
    guidance_scale: Guidance | None = None
    guidance_interval: GuidanceInterval | None = None
    guidance_rescale: Fraction | None = None
    classifier_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    adaptive_guidance: Annotated[float, Field(ge=-1, le=1)] | None = None
    dynamic_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    step_cache: Annotated[float, Field(gt=0, le=1)] | None = None
    prompts: Prompts | None = None
    adapters: Adapters | None = None
    control: Control | None = None
    truncation: Annotated[float, Field(ge=0, le=10)] | None = None
    noise_strength: NoiseStrength | None = None
    temperature: Temperature | None = None
    temperatures: Temperatures | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    size: Size | None = None
    output_format: ImageFormat | None = None
    output_compression: Compression | None = None
    response: ResponseKind | None = None
    preview_every: PreviewEvery | None = None
    metadata: InFile | None = None


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
    attributes: Attributes | None = None
    attribute: TraversedAttribute | None = None
    channels: Channels | None = None
    layers: LayerRange | None = None
    layer: MixedFrom | None = None
    code: TraversedCode | None = None
    range: TraversedRange | None = None
    values: TraversedValues | None = None
    fractions: Annotated[list[Fraction], Field(min_length=1, max_length=64)] | None = None
    strength: Fraction | None = None
    spherical: bool | None = None
    end_prompt: Text | None = None
    source_prompt: Text | None = None
    left: Margin | None = None
    top: Margin | None = None
    right: Margin | None = None
    bottom: Margin | None = None
    canvas: Canvas | None = None
    sample: bool | None = None
    levels: Levels | None = None


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
