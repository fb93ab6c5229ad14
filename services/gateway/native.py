"""The service's own routes: generate, edit, likelihood, encode."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.core.job import Task, Watch
from services.gateway.answers import (
    EncodeAnswer,
    ImagesAnswer,
    LikelihoodAnswer,
    json_answer,
    raw_answer,
)
from services.gateway.auth import ApiKeys
from services.gateway.direct_route import DirectRoute
from services.gateway.dispatch import dispatch
from services.gateway.events import NativeWords
from services.gateway.examples import EDIT, ENCODE, GENERATE, LIKELIHOOD, STREAM
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import build_call, find_model, parse, read_payload
from services.gateway.limits import check_size
from services.gateway.negotiation import expected_images, negotiate
from services.gateway.openapi import (
    CALL_ERRORS,
    documented,
    guarded,
    held_for_review,
    request_body,
)
from services.gateway.schemas import (
    CallRequest,
    EditRequest,
    EncodeRequest,
    GenerateRequest,
    ImageRequest,
    LikelihoodRequest,
)
from services.gateway.streams import open_stream


async def _make_images(
    gateway: Gateway, request: Request, kind: type[ImageRequest], task: Task
) -> Response:
    exchange = exchange_of(request)
    exchange.task = task.value
    payload = await read_payload(request, gateway.settings)
    asked = parse(kind, payload)
    model = await find_model(gateway, exchange, asked.model)
    check_size(asked.size, model)
    images = expected_images(asked, getattr(asked, "operation", task.value), model)
    reply = negotiate(request.headers.get("accept", ""), asked, images)
    call = build_call(gateway, exchange, asked, payload, task=task, encoding=reply.encoding)
    if reply.stream:
        watch = Watch(preview_every=asked.preview_every or 0)
        words = NativeWords(reply.encoding, exchange.id)
        return await open_stream(gateway, request, call, watch, words)
    answer = await dispatch(gateway, request, call)
    if reply.raw:
        return raw_answer(answer, reply.encoding.format)
    return json_answer(answer, created=True)


async def _examine(
    gateway: Gateway, request: Request, kind: type[CallRequest], task: Task
) -> Response:
    exchange = exchange_of(request)
    exchange.task = task.value
    payload = await read_payload(request, gateway.settings)
    asked = parse(kind, payload)
    await find_model(gateway, exchange, asked.model)
    call = build_call(gateway, exchange, asked, payload, task=task)
    return json_answer(await dispatch(gateway, request, call), created=False)


def native_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """The four ``POST`` routes, each taking JSON or multipart."""
    router = APIRouter(
        prefix="/v1", tags=["native"], dependencies=guarded(keys), route_class=DirectRoute
    )

    @router.post(
        "/generate",
        summary="Make images",
        operation_id="generate",
        responses=documented(ImagesAnswer, *CALL_ERRORS, images=True, stream=STREAM)
        | held_for_review(),
        openapi_extra=request_body(GenerateRequest, json=GENERATE),
    )
    async def generate(request: Request) -> Response:
        """Make images from noise; the same seed gives the same image.

        With ``"response": "stream"`` the answer is a stream of events: ``queued``, ``progress``
        after each network evaluation, ``preview`` where ``preview_every`` asks for them, ``image``
        as soon as each is done, at last ``done``, or ``error``. Who reads slowly is told the
        latest, not everything. ``queued`` holds the ``request_id`` by which
        DELETE /v1/requests/{request_id} ends the work from another connection.
        """
        return await _make_images(gateway, request, GenerateRequest, Task.GENERATE)

    @router.post(
        "/edit",
        summary="Make images from images or latents",
        operation_id="edit",
        responses=documented(ImagesAnswer, *CALL_ERRORS, images=True, stream=STREAM)
        | held_for_review(),
        openapi_extra=request_body(EditRequest, json=EDIT, form=EDIT, mask=True),
    )
    async def edit(request: Request) -> Response:
        """Vary, inpaint, interpolate ...: see ``operations`` of GET /v1/models/{model}."""
        return await _make_images(gateway, request, EditRequest, Task.EDIT)

    @router.post(
        "/likelihood",
        summary="Say how probable images are",
        operation_id="likelihood",
        responses=documented(LikelihoodAnswer, *CALL_ERRORS),
        openapi_extra=request_body(LikelihoodRequest, json=LIKELIHOOD, form=LIKELIHOOD),
    )
    async def likelihood(request: Request) -> Response:
        """Log-likelihood in nats and bits per dimension: exact, a lower bound, or an estimate."""
        return await _examine(gateway, request, LikelihoodRequest, Task.LIKELIHOOD)

    @router.post(
        "/encode",
        summary="Find the latents of images",
        operation_id="encode",
        responses=documented(EncodeAnswer, *CALL_ERRORS),
        openapi_extra=request_body(EncodeRequest, json=ENCODE, form=ENCODE),
    )
    async def encode(request: Request) -> Response:
        """Latents as base64 float32 with their shape; generate and edit take them again.

        A model whose generator takes codes gives the codes that it reads, which generate takes
        again. One with a critic gives ``realness``, the critic's score: no likelihood, for a GAN
        has no density. ``x-gives`` of the model's ``encode`` says what there is.
        """
        return await _examine(gateway, request, EncodeRequest, Task.ENCODE)

    return router
