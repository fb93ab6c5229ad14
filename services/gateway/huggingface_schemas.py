"""The bodies that ``huggingface_hub``'s ``InferenceClient`` sends to an endpoint of its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.core.parameters import Seed
from services.gateway.fields import (
    Deadline,
    Fraction,
    Guidance,
    ImageText,
    InFile,
    Label,
    Steps,
    Temperature,
    Text,
)

Side = Annotated[int, Field(ge=1, le=65536, description="Pixels; must be the model's own.")]


class _Lenient(BaseModel):
    """Fields that no model here needs are ignored, as the client's documentation promises."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class TargetSize(_Lenient):
    """Of the answer."""

    width: Side
    height: Side


class TextToImageParameters(_Lenient):
    """Beside the prompt: the client's own, then the service's."""

    negative_prompt: str | None = None
    height: Side | None = None
    width: Side | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    scheduler: (
        Annotated[
            str,
            Field(max_length=64, description="A class of diffusers, or a sampler of the model."),
        ]
        | None
    ) = None
    seed: Seed | None = None
    label: Label | None = None
    truncation: Annotated[float, Field(ge=0, le=10)] | None = None
    temperature: Temperature | None = None
    deadline: Deadline | None = None
    metadata: InFile | None = None


class TextToImageRequest(_Lenient):
    """``InferenceClient.text_to_image``."""

    inputs: Text
    parameters: TextToImageParameters = TextToImageParameters()


class ImageToImageParameters(_Lenient):
    """Beside the image: the client's own, then the service's."""

    prompt: Text | None = None
    negative_prompt: str | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    target_size: TargetSize | None = None
    scheduler: Annotated[str, Field(max_length=64)] | None = None
    seed: Seed | None = None
    strength: Fraction | None = None
    mask: (
        Annotated[ImageText, Field(description="What to make anew; white, or alpha 0.")] | None
    ) = None
    deadline: Deadline | None = None
    metadata: InFile | None = None


class ImageToImageRequest(_Lenient):
    """``InferenceClient.image_to_image``, which without parameters sends the image as it is."""

    inputs: ImageText
    parameters: ImageToImageParameters = ImageToImageParameters()
