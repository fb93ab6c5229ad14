"""The bodies of OpenAI's routes for images, with the service's own knobs beside OpenAI's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.core.job import ImageFormat
from services.core.parameters import Seed
from services.gateway.fields import (
    Compression,
    Deadline,
    Fraction,
    Guidance,
    Images,
    ImageText,
    InFile,
    ModelId,
    Number,
    ShortName,
    Size,
    Steps,
    Text,
)


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
    output_compression: Compression | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: (
        Annotated[int, Field(ge=0, le=3, description="Previews of each image of a stream.")] | None
    ) = None
    seed: Seed | None = None
    steps: Steps | None = None
    guidance_scale: Guidance | None = None
    negative_prompt: str | None = None
    sampler: ShortName | None = None
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
