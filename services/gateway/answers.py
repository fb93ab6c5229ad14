"""The bodies of answers: their schemas, and how a backend's `Answer` becomes one."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from services.core.errors import InvalidParameter
from services.core.images import MEDIA_TYPES
from services.core.job import Answer, ImageFormat, Item, Timings
from services.core.job import StageTimings as StageOfCascade
from services.core.parameters import Latents


class StageTimings(BaseModel):
    """Seconds spent in each stage."""

    queue: float
    prepare: float
    step: float
    decode: float
    encode: float


class CascadeStage(BaseModel):
    """One model of a cascade, and the seconds that it spent."""

    model: str
    timings: StageTimings


class GeneratedImage(BaseModel):
    """One image and what it was made from; a model may add values of its own.

    ``revised_prompt`` is the whole prompt, where the request's left things open that were drawn.
    An inversion by descent also gives ``latents``, ``latent_space`` and ``psnr`` in dB, null where
    the image is the one given to the bit.
    """

    model_config = ConfigDict(extra="allow")

    b64_json: str | None = None
    seed: int | None = None
    revised_prompt: str | None = None


class ImagesAnswer(BaseModel):
    """Answer of generate and edit; ``timings`` add up those of a cascade's ``stages``.

    ``digest`` is that of the version of the model which made it: the same request with ``model`` as
    ``model@digest`` and the same seed gives the same images.
    """

    model: str
    digest: str | None = None
    created: int
    data: list[GeneratedImage]
    timings: StageTimings
    stages: list[CascadeStage] | None = None


class ImageLikelihood(BaseModel):
    """One image's likelihood; ``log_likelihood`` in nats.

    ``percentile`` is its place among the model's reference set: below 1 the image is
    ``anomalous``. Likelihoods prefer simple images, so there is also one from which that is taken
    out: ``corrected_bits_per_dim`` is ``bits_per_dim`` less ``complexity_bits_per_dim``, what a
    lossless compressor needs (Serra et al., 2020), with its own percentile, of which the lowest are
    anomalous too. ``residual_bits_per_dim`` is there where the likelihood is of codes: what they
    leave out of the image, which the corrected bits count too. ``posterior`` is how probable each
    class or component of a density is.
    """

    model_config = ConfigDict(extra="allow")

    log_likelihood: float | None
    bits_per_dim: float | None
    kind: Literal["exact", "lower_bound", "estimate"]
    std_error: float | None = None
    terms: dict[str, Any] | None = None
    percentile: float | None = None
    anomalous: bool | None = None
    complexity_bits_per_dim: float | None = None
    residual_bits_per_dim: float | None = None
    corrected_bits_per_dim: float | None = None
    corrected_percentile: float | None = None
    corrected_anomalous: bool | None = None
    posterior: dict[str, float] | None = None


class LikelihoodAnswer(BaseModel):
    """Answer of likelihood, one entry per image."""

    model: str
    digest: str | None = None
    data: list[ImageLikelihood]
    timings: StageTimings


class EncodedImage(BaseModel):
    """What a model's networks read in one image: most of them its latents.

    ``x-gives`` of the model's ``encode`` says what else, or instead. ``category`` and
    ``continuous`` are codes that a generator of codes takes again. ``realness`` is a critic's score
    of how real the image looks to it: no likelihood, and comparable under this one critic alone;
    ``realness_percentile`` is its place among those of held-out images. ``styles`` are latents too,
    of a style-based generator's space s, as ``latent_space`` says what ``latents`` are of.
    """

    model_config = ConfigDict(extra="allow")

    latents: Latents | None = None
    latent_space: str | None = None
    styles: Latents | None = None
    category: int | None = None
    category_probabilities: list[float] | None = None
    continuous: list[float] | None = None
    continuous_std: list[float] | None = None
    realness: float | None = None
    realness_percentile: float | None = None


class EncodeAnswer(BaseModel):
    """Answer of encode, one entry per image."""

    model: str
    digest: str | None = None
    data: list[EncodedImage]
    timings: StageTimings


class OpenAIImage(BaseModel):
    """One image, as OpenAI's clients read it."""

    b64_json: str | None = None
    url: str | None = None
    seed: int | None = None


class OpenAIImagesAnswer(BaseModel):
    """OpenAI's answer to a generation."""

    created: int
    data: list[OpenAIImage]
    output_format: Literal["png", "jpeg", "webp"]
    size: str


class ErrorDetail(BaseModel):
    """What was wrong, and what would be right."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorEnvelope(BaseModel):
    """Every error has this shape."""

    error: ErrorDetail


def finite(value: Any) -> Any:
    """The value with every float that JSON cannot write as ``None``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    return value


def json_response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Strict JSON."""
    content = json.dumps(finite(body), allow_nan=False).encode()
    return Response(content, headers=dict(headers or {}), media_type="application/json")


def base64_text(data: bytes) -> str:
    """Bytes as JSON carries them."""
    return base64.b64encode(data).decode()


def server_timing(timings: Timings) -> str:
    """The stages as a ``server-timing`` header, in milliseconds."""
    seconds = ((stage.name, getattr(timings, stage.name)) for stage in fields(timings))
    return ", ".join(f"{name};dur={value * 1000:.3f}" for name, value in seconds)


def stage_seconds(timings: Timings) -> dict[str, float]:
    """The stages as JSON shows them, in seconds."""
    return {name: round(value, 6) for name, value in asdict(timings).items()}


def cascade_stages(stages: Iterable[StageOfCascade]) -> list[dict[str, Any]]:
    """The models that a cascade went through, as JSON shows them."""
    return [{"model": stage.model, "timings": stage_seconds(stage.timings)} for stage in stages]


def entry(item: Item) -> dict[str, Any]:
    """One item as ``data[]`` holds it."""
    image = {} if item.image is None else {"b64_json": base64_text(item.image)}
    return {**image, **item.values}


def digest_in(versions: Mapping[str, str], model: str) -> dict[str, str]:
    """The digest of the model's version, where the backend says so; see `Answer.versions`."""
    return {"digest": versions[model]} if versions.get(model) else {}


def json_answer(answer: Answer, *, created: bool) -> Response:
    """An answer as JSON, with the moment of creation where images were made."""
    stamp = {"created": int(time.time())} if created else {}
    body = {
        "model": answer.model,
        **digest_in(answer.versions, answer.model),
        **stamp,
        "data": [entry(item) for item in answer.items],
        "timings": stage_seconds(answer.timings),
    }
    if answer.stages:
        body["stages"] = cascade_stages(answer.stages)
    return json_response(body)


def raw_answer(answer: Answer, image_format: ImageFormat) -> Response:
    """The one image of an answer as it is, with its seed and model in headers.

    Raises:
        InvalidParameter: the answer is not one image.
    """
    images = [item for item in answer.items if item.image is not None]
    if len(answer.items) != 1 or len(images) != 1:
        raise InvalidParameter(
            f"the answer is {len(answer.items)} items with {len(images)} images, and only one "
            "image can be sent as raw bytes; accept application/json",
            param="response",
        )
    digest = {
        f"x-atelier-{name}": value
        for name, value in digest_in(answer.versions, answer.model).items()
    }
    headers = {"x-atelier-model": answer.model, **digest}
    if "seed" in images[0].values:
        headers["x-atelier-seed"] = str(images[0].values["seed"])
    return Response(images[0].image, headers=headers, media_type=MEDIA_TYPES[image_format])
