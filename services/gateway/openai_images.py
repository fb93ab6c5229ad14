"""``POST /v1/images/*``, as the unmodified ``openai`` client speaks it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.core.errors import InvalidParameter
from services.core.images import MEDIA_TYPES
from services.core.job import Answer, Encoding, Task, Watch
from services.core.model import ModelInfo
from services.gateway.answers import (
    OpenAIImagesAnswer,
    base64_text,
    json_response,
)
from services.gateway.auth import ApiKeys
from services.gateway.dispatch import dispatch
from services.gateway.events import OpenAIWords
from services.gateway.examples import (
    OPENAI_EDIT,
    OPENAI_EDIT_STREAM,
    OPENAI_GENERATION,
    OPENAI_STREAM,
    OPENAI_VARIATION,
)
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import (
    Payload,
    build_call,
    find_model,
    image_sources,
    parse,
    read_json,
    read_payload,
)
from services.gateway.limits import check_limits, check_size, size_of
from services.gateway.openai_schemas import (
    OpenAIEditRequest,
    OpenAIGenerationRequest,
    OpenAIImageRequest,
    OpenAIVariationRequest,
)
from services.gateway.openapi import CALL_ERRORS, documented, guarded, request_body
from services.gateway.schemas import CallRequest, EditRequest, GenerateRequest
from services.gateway.streams import open_stream

_SHARED = frozenset(
    {"n", "seed", "steps", "guidance_scale", "negative_prompt", "sampler", "deadline", "strength"}
    | {"metadata"}
)
_EVENTS = {Task.GENERATE: "image_generation", Task.EDIT: "image_edit"}
_WORD = re.compile(r"[^\W_]+")
_SHOWN_LABELS = 32
_TOLD = ("seed", "revised_prompt")


def label_in(prompt: str, labels: Sequence[str]) -> str:
    """The label of a model that a prompt names, the longest where it names several.

    Raises:
        InvalidParameter: it names none.
    """
    spoken = f" {' '.join(_WORD.findall(prompt.lower()))} "
    named = [label for label in labels if f" {' '.join(_WORD.findall(label.lower()))} " in spoken]
    if not named:
        offer = ", ".join(labels[:_SHOWN_LABELS])
        raise InvalidParameter(
            f"the prompt names no label of this model; name one of: {offer}", param="prompt"
        )
    return max(named, key=len)


def condition_from(prompt: str, model: ModelInfo) -> dict[str, Any]:
    """What a model makes of a prompt: text, a label found in it, or nothing.

    Raises:
        InvalidParameter: the model takes labels, and the prompt names none.
    """
    if "text" in model.conditioning:
        return {"prompt": prompt}
    if "label" in model.conditioning:
        return {"label": label_in(prompt, model.labels)}
    return {}


def _images_answer(answer: Answer, encoding: Encoding, model: ModelInfo, *, url: bool) -> Response:
    prefix = f"data:{MEDIA_TYPES[encoding.format]};base64,"
    data = []
    for item in answer.items:
        text = base64_text(item.image or b"")
        image = {"url": prefix + text} if url else {"b64_json": text}
        known = {name: item.values[name] for name in _TOLD if name in item.values}
        data.append({**image, **known})
    body = {
        "created": int(time.time()),
        "data": data,
        "output_format": encoding.format,
        "size": size_of(model),
    }
    return json_response(body)


async def _make_images(
    gateway: Gateway, request: Request, kind: type[OpenAIImageRequest], task: Task
) -> Response:
    """Answer a request for images; with an operation where they are made from another."""
    exchange = exchange_of(request)
    exchange.task = task.value
    read = read_json if kind is OpenAIGenerationRequest else read_payload
    payload = await read(request, gateway.settings)
    asked = parse(kind, payload)
    check_limits(asked, gateway.settings)
    model = await find_model(gateway, exchange, asked.model or gateway.settings.default_model)
    check_size(asked.size, model)
    own_kind, own = _own_request(asked, payload, model, task)
    compression = 100 if asked.output_compression is None else asked.output_compression
    encoding = Encoding(format=asked.output_format or "png", compression=compression)
    call = build_call(gateway, exchange, parse(own_kind, own), own, task=task, encoding=encoding)
    if asked.stream:
        watch = Watch(previews=asked.partial_images or 0)
        words = OpenAIWords(_EVENTS[task], encoding, size_of(model))
        return await open_stream(gateway, request, call, watch, words)
    answer = await dispatch(gateway, request, call)
    return _images_answer(answer, encoding, model, url=asked.response_format == "url")


def _own_request(
    asked: OpenAIImageRequest, payload: Payload, model: ModelInfo, task: Task
) -> tuple[type[CallRequest], Payload]:
    """The same in the words of the native routes, and its schema."""
    prompt: str | None = getattr(asked, "prompt", None)
    fields = asked.model_dump(include=set(_SHARED), exclude_none=True)
    fields |= {"model": model.id, **(condition_from(prompt, model) if prompt is not None else {})}
    if task is Task.GENERATE:
        return GenerateRequest, Payload(fields)
    mask = payload.mask if payload.mask is not None else getattr(asked, "mask", None)
    fields["operation"] = "variation" if mask is None else "inpaint"
    images = (*payload.images, *image_sources(asked))
    if not images:
        raise InvalidParameter("field 'image' is missing", param="image")
    return EditRequest, Payload(fields, images, mask)


def openai_image_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """OpenAI's routes for making images."""
    router = APIRouter(prefix="/v1/images", tags=["openai"], dependencies=guarded(keys))

    @router.post(
        "/generations",
        summary="Make images, as OpenAI's clients ask for them",
        operation_id="openai_generate_images",
        responses=documented(OpenAIImagesAnswer, *CALL_ERRORS, stream=OPENAI_STREAM),
        openapi_extra=request_body(OpenAIGenerationRequest, json=OPENAI_GENERATION),
    )
    async def generate_images(request: Request) -> Response:
        """Models of labels take the label that the prompt names; others may ignore the prompt."""
        return await _make_images(gateway, request, OpenAIGenerationRequest, Task.GENERATE)

    @router.post(
        "/edits",
        summary="Change an image, as OpenAI's clients ask for it",
        operation_id="openai_edit_image",
        responses=documented(OpenAIImagesAnswer, *CALL_ERRORS, stream=OPENAI_EDIT_STREAM),
        openapi_extra=request_body(
            OpenAIEditRequest, json=OPENAI_EDIT, form=OPENAI_EDIT, mask=True
        ),
    )
    async def edit_image(request: Request) -> Response:
        """With a mask: ``inpaint`` what it marks, by alpha 0 or, where it is opaque, by white.

        Without one: ``variation``, which takes ``strength``.
        """
        return await _make_images(gateway, request, OpenAIEditRequest, Task.EDIT)

    @router.post(
        "/variations",
        summary="Vary an image, as OpenAI's clients ask for it",
        operation_id="openai_vary_image",
        responses=documented(OpenAIImagesAnswer, *CALL_ERRORS, stream=OPENAI_EDIT_STREAM),
        openapi_extra=request_body(
            OpenAIVariationRequest, json=OPENAI_VARIATION, form=OPENAI_VARIATION
        ),
    )
    async def vary_image(request: Request) -> Response:
        """The operation ``variation``; a prompt may be given beside the image."""
        return await _make_images(gateway, request, OpenAIVariationRequest, Task.EDIT)

    return router
