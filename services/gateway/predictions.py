"""Replicate's predictions over the durable jobs: its unmodified client runs models here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from services.core.errors import InvalidParameter, ModelNotFound
from services.core.job import Task
from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.examples import PREDICTION, PREDICTION_BY_VERSION
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import Payload, parse, read_json
from services.gateway.job_plans import Sent, fingerprint, idempotency_key, plan
from services.gateway.job_schemas import JobSubmission
from services.gateway.jobs import accept
from services.gateway.openapi import CALL_ERRORS, documented, errors_of, guarded, request_body
from services.gateway.prediction_answers import (
    MARK,
    OWNER,
    PREDICTIONS_PATH,
    outputs,
    prediction_json,
    readable_outputs,
)
from services.gateway.prediction_events import open_prediction_stream
from services.gateway.prediction_schemas import (
    Prediction,
    PredictionPage,
    PredictionRequest,
)
from services.jobs.webhooks import USUAL_EVENTS, check_webhook
from services.jobs.words import JobQuery, JobRecord, WebhookTarget

WAIT_SECONDS = 60.0
"""How long ``Prefer: wait`` waits where it does not say; and the most that it can say."""
_WAIT = re.compile(r"(?:^|[,;\s])wait(?:\s*=\s*([0-9]{1,3}))?(?:$|[,;\s])")

EVENTS_OF: Mapping[str, tuple[str, ...]] = {
    "start": ("job.started",),
    "output": ("job.succeeded",),
    "logs": (),
    "completed": USUAL_EVENTS,
}
"""What Replicate's filters are here: a job's outputs are there all at once, when it has succeeded;
and it writes no logs."""

PredictionId = Annotated[
    str, Path(max_length=64, examples=["job-0123456789abcdef0123456789abcdef"])
]
_LOOK_ERRORS = (401, 404, 422, 429, 500, 503)


def base_of(gateway: Gateway, request: Request) -> str:
    """What URLs in an answer begin with: as the operator says, else as the client came."""
    return (gateway.settings.public_url or str(request.base_url)).rstrip("/")


def seconds_to_wait(prefer: str) -> float:
    """For how long a client wants to wait for the end: ``Prefer: wait=5``; 0 for not at all."""
    found = _WAIT.search(prefer.lower())
    if found is None:
        return 0.0
    return min(float(found[1] or WAIT_SECONDS), WAIT_SECONDS)


def model_name(owner: str, name: str) -> str:
    """The id of a model by Replicate's name of it.

    Raises:
        ModelNotFound: the owner has no models here.
    """
    if owner != OWNER:
        raise ModelNotFound(
            f"models are named {OWNER}/NAME here, there is no '{owner[:60]}/{name[:60]}'; "
            "GET /v1/models lists them",
            param="model",
        )
    return name


def model_of_version(version: str | None) -> str:
    """The id of a model by ``version``, which is its name, with or without what stands before it.

    Raises:
        InvalidParameter: there is no version.
        ModelNotFound: the owner has no models here.
    """
    if not version:
        raise InvalidParameter("'version' is missing; it is the model's name", param="version")
    full, _, exact = version.partition(":")
    owner, slash, name = full.partition("/")
    return exact or (model_name(owner, name) if slash else full)


def submission_of(model: str, asked: PredictionRequest) -> JobSubmission:
    """What the job is asked to do.

    Raises:
        InvalidParameter: the input names another model.
    """
    fields = dict(asked.input)
    if fields.pop("model", model) != model:
        raise InvalidParameter("the input names another model", param="model")
    usual = Task.EDIT if "operation" in fields else Task.GENERATE
    task = fields.pop("task", usual.value)
    return JobSubmission(task=str(task)[:32], request={**fields, "model": model})


def webhook_of(asked: PredictionRequest) -> WebhookTarget | None:
    """Whom to tell, and of what."""
    if asked.webhook is None:
        completed = asked.webhook_completed
        return None if completed is None else WebhookTarget(completed, USUAL_EVENTS)
    wanted: Iterable[str] = asked.webhook_events_filter or EVENTS_OF
    events = dict.fromkeys(event for name in wanted for event in EVENTS_OF[name])
    return WebhookTarget(asked.webhook, tuple(events)) if events else None


async def _create(gateway: Gateway, request: Request, model: str | None) -> Response:
    settings, base = gateway.settings, base_of(gateway, request)
    payload = await read_json(request, settings)
    asked = parse(PredictionRequest, payload)
    submission = submission_of(model or model_of_version(asked.version), asked)
    files, key = Payload({}), idempotency_key(request)
    sent = Sent(submission, files, key, fingerprint({**payload.fields, "model": model}, files))
    job = await plan(gateway, request, sent)
    target = webhook_of(asked)
    if target is not None:
        check_webhook(target, settings.webhooks)
    job = replace(job, webhook=target, shown={**job.shown, MARK: base})
    done = await accept(gateway, request, job, sent)
    seconds = seconds_to_wait(request.headers.get("prefer", ""))
    record = await _awaited(gateway, done.record, seconds)
    body = await _shown(gateway, record, base, waited=seconds > 0)
    response = json_response(body, {"location": body["urls"]["get"]})
    response.status_code = 201
    return response


async def _awaited(gateway: Gateway, record: JobRecord, seconds: float) -> JobRecord:
    """The job once it is done, or as it is after so long."""
    if seconds <= 0 or record.status.final:
        return record
    try:
        async with (
            asyncio.timeout(seconds),
            aclosing(gateway.durable.events(record.owner, record.id)) as changes,
        ):
            async for latest in changes:
                record = latest
    except TimeoutError:
        pass
    return record


async def _shown(
    gateway: Gateway, record: JobRecord, base: str, *, waited: bool = False
) -> dict[str, Any]:
    output = await readable_outputs(gateway.durable, record, base)
    # The client takes what it has waited for as done, unless it is still starting.
    status = "starting" if waited and not record.status.final else None
    return prediction_json(record, base, output, status=status)


def prediction_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """Create, look, list, cancel, stream."""
    router = APIRouter(prefix="/v1", tags=["replicate"], dependencies=guarded(keys))
    jobs = gateway.durable
    created: dict[int | str, dict[str, Any]] = {
        201: {"model": Prediction, "description": "It was accepted, and may be done."},
        **errors_of(409, *CALL_ERRORS, path=PREDICTIONS_PATH),
    }

    @router.post(
        "/predictions",
        status_code=201,
        summary="Run a model, as Replicate's clients do",
        operation_id="create_prediction",
        responses=created,
        openapi_extra=request_body(PredictionRequest, json=PREDICTION_BY_VERSION),
    )
    async def create(request: Request) -> Response:
        """With ``Prefer: wait=N`` the answer comes when it is done, or after N seconds."""
        return await _create(gateway, request, None)

    @router.post(
        "/models/{owner}/{name}/predictions",
        status_code=201,
        summary="Run a model by its name, as Replicate's clients do",
        operation_id="create_model_prediction",
        responses=created,
        openapi_extra=request_body(PredictionRequest, json=PREDICTION),
    )
    async def create_of_model(
        request: Request,
        owner: Annotated[str, Path(max_length=128, examples=[OWNER])],
        name: Annotated[str, Path(max_length=128, examples=["shapes-ldm"])],
    ) -> Response:
        """With ``Prefer: wait=N`` the answer comes when it is done, or after N seconds."""
        return await _create(gateway, request, model_name(owner, name))

    @router.get(
        "/predictions",
        summary="List predictions, newest first",
        operation_id="list_predictions",
        responses=documented(PredictionPage, 401, 422, 429, 500, 503, path=PREDICTIONS_PATH),
    )
    async def listed(
        request: Request, cursor: Annotated[str | None, Query(max_length=256)] = None
    ) -> Response:
        """All jobs of this key; images by URL."""
        page = await jobs.list(exchange_of(request).owner, JobQuery(cursor=cursor))
        base = base_of(gateway, request)
        after = page.cursor and f"{PREDICTIONS_PATH}?cursor={quote(page.cursor, safe='')}"
        found = [prediction_json(one, base, outputs(one, base)) for one in page.jobs]
        return json_response({"previous": None, "next": after, "results": found})

    @router.get(
        "/predictions/{prediction_id}",
        summary="How a prediction is",
        operation_id="get_prediction",
        responses=documented(Prediction, *_LOOK_ERRORS, path=PREDICTIONS_PATH),
    )
    async def get(request: Request, prediction_id: PredictionId) -> Response:
        """Images are in the answer itself where the service is not reached by https."""
        record = await jobs.get(exchange_of(request).owner, prediction_id)
        return json_response(await _shown(gateway, record, base_of(gateway, request)))

    @router.post(
        "/predictions/{prediction_id}/cancel",
        summary="Cancel a prediction",
        operation_id="cancel_prediction",
        responses=documented(Prediction, *_LOOK_ERRORS, path=PREDICTIONS_PATH),
    )
    async def cancel(request: Request, prediction_id: PredictionId) -> Response:
        """Its rows leave their batch within a step; one that is done stays as it is."""
        record = await jobs.cancel(exchange_of(request).owner, prediction_id)
        return json_response(await _shown(gateway, record, base_of(gateway, request)))

    @router.get(
        "/predictions/{prediction_id}/stream",
        summary="Follow a prediction",
        operation_id="stream_prediction",
        response_class=Response,
        responses={
            200: {"description": "Events.", "content": {"text/event-stream": {}}},
            **errors_of(*_LOOK_ERRORS, path=PREDICTIONS_PATH),
        },
    )
    async def stream(request: Request, prediction_id: PredictionId) -> Response:
        """``logs`` as it goes on, ``output`` for each image, at last ``done``, or ``error``."""
        base = base_of(gateway, request)
        return await open_prediction_stream(gateway, request, prediction_id, base)

    return router
