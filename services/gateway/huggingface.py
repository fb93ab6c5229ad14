"""``/hf/{model}``: endpoints for the unmodified ``InferenceClient`` of ``huggingface_hub``."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from services.core.errors import InvalidParameter, UnsupportedMedia
from services.core.images import MEDIA_TYPES
from services.core.job import Encoding, ImageFormat, Task
from services.core.model import ModelInfo
from services.core.versions import LONGEST_REFERENCE
from services.gateway.answers import raw_answer
from services.gateway.auth import ApiKeys
from services.gateway.dispatch import dispatch
from services.gateway.examples import HUGGINGFACE_IMAGE, HUGGINGFACE_TEXT
from services.gateway.exchange import Exchange, Gateway, exchange_of
from services.gateway.huggingface_schemas import (
    ImageToImageParameters,
    ImageToImageRequest,
    TextToImageRequest,
)
from services.gateway.intake import Payload, build_call, find_model, parse, read_json
from services.gateway.limits import check_size
from services.gateway.negotiation import accepted
from services.gateway.openai_images import condition_from
from services.gateway.openapi import CALL_ERRORS, errors_of, guarded, request_body
from services.gateway.schemas import CallRequest, EditRequest, GenerateRequest

SAMPLERS: Final = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms",
    "UniPCMultistepScheduler": "unipc",
}
"""Classes of diffusers, and the samplers that do what they do."""

FROM_AN_IMAGE: Final = ("variation", "translate", "super_resolution", "reconstruct")
"""What an image can be turned into another by, in the order of preference."""

_RENAMED: Final = {"num_inference_steps": "steps"}
_NOT_SENT_ON: Final = {"prompt", "width", "height", "target_size", "scheduler", "mask"}
_PREFIX = "/hf"
_FILE = {"schema": {"type": "string", "format": "binary"}}

ModelName = Annotated[str, Path(max_length=LONGEST_REFERENCE, examples=["shapes-ldm"])]


def huggingface_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """``POST /hf/{model}/text-to-image`` and ``/hf/{model}/image-to-image``."""
    router = APIRouter(prefix=_PREFIX, tags=["huggingface"], dependencies=guarded(keys))
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The image.",
            "content": dict.fromkeys(MEDIA_TYPES.values(), _FILE),
        },
        **errors_of(*CALL_ERRORS, path=_PREFIX),
    }

    @router.post(
        "/{model}/text-to-image",
        summary="Make an image, as huggingface_hub's clients ask for it",
        operation_id="hf_text_to_image",
        response_class=Response,
        responses=answers,
        openapi_extra=request_body(TextToImageRequest, json=HUGGINGFACE_TEXT),
    )
    async def text_to_image(request: Request, model: ModelName) -> Response:
        """Models of labels take the label that the prompt names; others may ignore the prompt."""
        return await _text_to_image(gateway, request, model)

    @router.post(
        "/{model}/image-to-image",
        summary="Change an image, as huggingface_hub's clients ask for it",
        operation_id="hf_image_to_image",
        response_class=Response,
        responses=answers,
        openapi_extra=_with_files(request_body(ImageToImageRequest, json=HUGGINGFACE_IMAGE)),
    )
    async def image_to_image(request: Request, model: ModelName) -> Response:
        """With a mask ``inpaint``, else what the model offers for a single image.

        That is ``variation``, ``translate``, ``super_resolution`` or ``reconstruct``. The body is
        JSON, or the bytes of the image where there are no parameters.
        """
        return await _image_to_image(gateway, request, model)

    return router


def _with_files(body: dict[str, Any]) -> dict[str, Any]:
    files = {media_type: {**_FILE, "examples": {}} for media_type in MEDIA_TYPES.values()}
    body["requestBody"]["content"] |= files
    return body


async def _text_to_image(gateway: Gateway, request: Request, name: str) -> Response:
    exchange = exchange_of(request)
    exchange.task = Task.GENERATE.value
    asked = parse(TextToImageRequest, await read_json(request, gateway.settings))
    model = await find_model(gateway, exchange, name)
    given = asked.parameters
    _check_sides(given.width, given.height, model)
    fields = _own_fields(given, model)
    if "label" not in fields:
        fields |= condition_from(asked.inputs, model)
    return await _answer(gateway, request, exchange, GenerateRequest, Payload(fields))


async def _image_to_image(gateway: Gateway, request: Request, name: str) -> Response:
    exchange = exchange_of(request)
    exchange.task = Task.EDIT.value
    given, image = await _read_image(gateway, request)
    model = await find_model(gateway, exchange, name)
    if given.target_size is not None:
        _check_sides(given.target_size.width, given.target_size.height, model)
    fields = _own_fields(given, model)
    fields["operation"] = _operation(model) if given.mask is None else "inpaint"
    if given.prompt is not None:
        fields |= condition_from(given.prompt, model)
    payload = Payload(fields, (image,), given.mask)
    return await _answer(gateway, request, exchange, EditRequest, payload)


async def _read_image(
    gateway: Gateway, request: Request
) -> tuple[ImageToImageParameters, bytes | str]:
    """The image and its parameters; without parameters the body is the image."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        asked = parse(ImageToImageRequest, await read_json(request, gateway.settings))
        return asked.parameters, asked.inputs
    if kind not in ("", "application/octet-stream") and not kind.startswith("image/"):
        raise UnsupportedMedia(
            f"the content-type must be application/json or that of an image, got {kind[:60]!a}"
        )
    return ImageToImageParameters(), await request.body()


def _operation(model: ModelInfo) -> str:
    """What to do with an image; what no model can do is for the backend to refuse."""
    return next((name for name in FROM_AN_IMAGE if name in model.operations), FROM_AN_IMAGE[0])


def _own_fields(given: BaseModel, model: ModelInfo) -> dict[str, Any]:
    """Parameters by the names of the native routes."""
    dumped = given.model_dump(exclude=_NOT_SENT_ON, exclude_none=True)
    fields = {_RENAMED.get(name, name): value for name, value in dumped.items()}
    scheduler: str | None = getattr(given, "scheduler", None)
    if scheduler is not None:
        fields["sampler"] = _sampler(scheduler, model)
    return {"model": model.id, **fields}


def _sampler(scheduler: str, model: ModelInfo) -> str:
    """The sampler that a scheduler's name means.

    Raises:
        InvalidParameter: the model has none of that name.
    """
    name = SAMPLERS.get(scheduler, scheduler)
    offered = model.limits.get("samplers", ())
    if offered and name not in offered:
        raise InvalidParameter(
            f"no scheduler {scheduler!a}; there are {', '.join(SAMPLERS)}, and the samplers "
            f"{', '.join(offered)}",
            param="scheduler",
        )
    return name


def _check_sides(width: int | None, height: int | None, model: ModelInfo) -> None:
    own_height, own_width = model.resolution
    if width is not None or height is not None:
        check_size(f"{width or own_width}x{height or own_height}", model)


async def _answer(
    gateway: Gateway,
    request: Request,
    exchange: Exchange,
    kind: type[CallRequest],
    payload: Payload,
) -> Response:
    image_format = _format(request.headers.get("accept", ""))
    call = build_call(
        gateway,
        exchange,
        parse(kind, payload),
        payload,
        task=Task(exchange.task),
        encoding=Encoding(image_format),
    )
    return raw_answer(await dispatch(gateway, request, call), image_format)


def _format(accept: str) -> ImageFormat:
    formats: dict[str, ImageFormat] = {
        MEDIA_TYPES["png"]: "png",
        MEDIA_TYPES["jpeg"]: "jpeg",
        MEDIA_TYPES["webp"]: "webp",
    }
    return next((formats[name] for name in accepted(accept) if name in formats), "png")
