"""The Open Inference Protocol (KServe v2) over HTTP, as the unmodified Triton client speaks it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from services.core.errors import ModelNotFound, Unavailable, UnsupportedMedia
from services.core.job import Answer, Call
from services.core.versions import LONGEST_REFERENCE
from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.dispatch import attended, ended, time_limit
from services.gateway.examples import INFER
from services.gateway.exchange import Exchange, Gateway, exchange_of
from services.gateway.intake import find_model
from services.gateway.openapi import CALL_ERRORS, documented, guarded, request_body
from services.gateway.triton_calls import calls_of, tensors_of
from services.gateway.triton_tensors import (
    inputs_of,
    known_inputs,
    operation_of,
    outputs_of,
    task_of,
    wanted_outputs,
)
from services.gateway.triton_wire import (
    HEADER_LENGTH,
    InferRequest,
    read_inference,
    write_inference,
)

VERSION: Final = "1"
"""The one version that every model has: a changed model has another name."""
EXTENSIONS: Final = ("binary_tensor_data",)

_JSON = ("application/json", "")
_BINARY = "application/octet-stream"
_PREFIX = "/v2"

ModelName = Annotated[str, Path(max_length=LONGEST_REFERENCE, examples=["shapes-ldm"])]
VersionName = Annotated[str, Path(max_length=64, examples=[VERSION])]


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """Work would be taken now."""

    ready: bool


class ModelReady(BaseModel):
    """The model would take work now."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor; -1 for a dimension of any size. All inputs are optional."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model, and every tensor that it takes or gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensor(TensorMetadata):
    """A tensor of an answer, with its values where they do not stand behind the JSON."""

    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferAnswer(BaseModel):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


def triton_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """``/v2``: metadata, readiness and inference, with a key where keys are set."""
    router = APIRouter(prefix=_PREFIX, tags=["kserve v2"], dependencies=guarded(keys))

    @router.get(
        "",
        summary="Describe the server, for KServe v2 clients",
        operation_id="v2_server",
        responses=documented(ServerMetadata, 401, 500, path=_PREFIX),
    )
    async def server() -> Response:
        return json_response({"name": "atelier", "version": VERSION, "extensions": EXTENSIONS})

    async def described(request: Request, name: str) -> Response:
        model = await find_model(gateway, exchange_of(request), name)
        given = {kind.name: kind for kinds in outputs_of(model).values() for kind in kinds}
        return json_response(
            {
                "name": model.id,
                "versions": [VERSION],
                "platform": f"atelier_{model.family}",
                "inputs": [kind.described() for kind in inputs_of(model)],
                "outputs": [kind.described() for kind in given.values()],
            }
        )

    async def prepared(request: Request, name: str) -> Response:
        model = await find_model(gateway, exchange_of(request), name)
        if not await gateway.backend.ready():
            raise Unavailable("no replica is ready to take work", retry_after=1)
        return json_response({"name": model.id, "ready": True})

    @router.get(
        "/models/{model}",
        summary="Describe a model's tensors",
        operation_id="v2_model",
        responses=documented(ModelMetadata, 401, 404, 422, 500, 503, path=_PREFIX),
    )
    async def metadata(request: Request, model: ModelName) -> Response:
        """Every input is optional: which are needed depends on what is asked for."""
        return await described(request, model)

    @router.get(
        "/models/{model}/ready",
        summary="Whether a model would take work now",
        operation_id="v2_model_ready",
        responses=documented(ModelReady, 401, 404, 422, 500, 503, path=_PREFIX),
    )
    async def ready(request: Request, model: ModelName) -> Response:
        return await prepared(request, model)

    @router.post(
        "/models/{model}/infer",
        summary="Tensors in, tensors out",
        operation_id="v2_infer",
        responses=documented(InferAnswer, *CALL_ERRORS, path=_PREFIX),
        openapi_extra=request_body(InferRequest, json=INFER),
    )
    async def infer(request: Request, model: ModelName) -> Response:
        """Generate, edit, judge or encode.

        The parameter ``operation`` says which, by a name of ``operations`` of
        GET /v1/models/{model}; without it an output of a likelihood or of latents does, else images
        are generated. Other ``parameters`` are the operation's own. To generate, each row of
        ``latents``, ``label``, ``prompt`` or ``seed`` makes one image; inputs of one row hold for
        all.

        With ``Inference-Header-Content-Length`` tensors stand behind the JSON, as they do in
        answers to ``binary_data`` or ``binary_data_output``. Images are UINT8
        ``[rows, height, width, channels]``, or files in ``image_file``.
        """
        return await _infer(gateway, request, model)

    @router.get("/models/{model}/versions/{version}", include_in_schema=False)
    async def version_metadata(
        request: Request, model: ModelName, version: VersionName
    ) -> Response:
        _check_version(version)
        return await described(request, model)

    @router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
    async def version_ready(request: Request, model: ModelName, version: VersionName) -> Response:
        _check_version(version)
        return await prepared(request, model)

    @router.post("/models/{model}/versions/{version}/infer", include_in_schema=False)
    async def version_infer(request: Request, model: ModelName, version: VersionName) -> Response:
        _check_version(version)
        return await _infer(gateway, request, model)

    return router


def triton_health_routes(gateway: Gateway) -> APIRouter:
    """``/v2/health``: for machines, without a key; yes is exactly 200."""
    router = APIRouter(prefix="/v2/health", tags=["kserve v2"])

    @router.get(
        "/live",
        summary="Whether the process answers, for KServe v2 clients",
        operation_id="v2_live",
        responses=documented(Live),
    )
    async def live() -> Response:
        return json_response({"live": True})

    @router.get(
        "/ready",
        summary="Whether work would be taken now, for KServe v2 clients",
        operation_id="v2_ready",
        responses=documented(Ready, 503, path=_PREFIX),
    )
    async def ready() -> Response:
        if not await gateway.backend.ready():
            raise Unavailable("no replica is ready to take work", retry_after=1)
        return json_response({"ready": True})

    return router


def _check_version(version: str) -> None:
    if version != VERSION:
        raise ModelNotFound(f"models have the one version '{VERSION}'", param="version")


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMedia(f"bodies are taken uncompressed, not as {encoding[:32]!a}")
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in (*_JSON, _BINARY):
        raise UnsupportedMedia(
            f"the content-type must be application/json or {_BINARY}, got {kind[:60]!a}"
        )


async def _infer(gateway: Gateway, request: Request, name: str) -> Response:
    exchange = exchange_of(request)
    _check_encoding(request)
    model = await find_model(gateway, exchange, name)
    body, length = await request.body(), request.headers.get(HEADER_LENGTH)
    # Tensors are turned into files and back, which would hold up everybody else in this loop.
    inference = await asyncio.to_thread(read_inference, body, length, gateway.settings)
    known_inputs(model, inference.tensors)
    operation = operation_of(model, inference)
    names = wanted_outputs(model, operation, inference)
    task = task_of(operation)
    exchange.task = task.value
    calls = await asyncio.to_thread(calls_of, gateway, exchange, model, operation, inference)
    answers = await _answers(gateway, request, exchange, calls)
    tensors = await asyncio.to_thread(
        tensors_of, answers, task, model, gateway.settings.image_limits
    )
    outputs = [(tensors[name], inference.is_binary(name)) for name in names if name in tensors]
    head = {"model_name": model.id, "model_version": VERSION}
    if inference.asked.id is not None:
        head["id"] = inference.asked.id
    content, json_length = write_inference(head, outputs)
    if json_length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={HEADER_LENGTH: str(json_length)}, media_type=_BINARY)


async def _answers(
    gateway: Gateway, request: Request, exchange: Exchange, calls: list[Call]
) -> list[Answer]:
    """The answers of calls that run beside each other, or the first error of any of them."""
    # All have the same deadline.
    limit = time_limit(gateway, calls[-1])
    work = _together(gateway, exchange, calls)
    return await attended(gateway, exchange, request.receive, work, limit)


async def _together(gateway: Gateway, exchange: Exchange, calls: list[Call]) -> list[Answer]:
    work = [gateway.meter.run(gateway.backend, exchange, call) for call in calls]
    runs = [asyncio.create_task(run) for run in work]
    try:
        return await asyncio.gather(*runs)
    finally:
        for run in runs:
            await ended(run)
