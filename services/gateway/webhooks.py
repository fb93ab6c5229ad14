"""Webhooks of jobs: what they say, what signs them, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.job_answers import job_json
from services.gateway.openapi import documented, guarded
from services.gateway.prediction_answers import is_prediction, prediction_body
from services.jobs.interface import Jobs
from services.jobs.webhook_store import Delivery, WebhookStore
from services.jobs.webhooks import Webhooks, WebhookSettings
from services.jobs.words import JobChange

State = Literal["pending", "delivered", "gone", "refused", "given_up"]


class WebhookSecret(BaseModel):
    """What verifies a key's webhooks."""

    key: Annotated[str, Field(description="`whsec_...`, as libraries of Standard Webhooks take.")]


class WebhookDelivery(BaseModel):
    """One event on its way to its receiver; times are seconds since 1970."""

    id: Annotated[str, Field(description="The `webhook-id`, the same at every attempt.")]
    event: str
    url: str
    state: State
    created: float
    attempts: int
    next_attempt: float | None
    said: Annotated[str | None, Field(description="What the last attempt came to.")]


class WebhookDeliveries(BaseModel):
    """What was and is to be told of a job, in the order of the events."""

    object: Literal["list"]
    data: list[WebhookDelivery]


def describe(event: str, change: JobChange) -> Mapping[str, Any]:
    """The body of an event: the job, or for Replicate's clients the prediction."""
    if is_prediction(change.record):
        return prediction_body(change.record)
    moment = datetime.fromtimestamp(change.at, UTC)
    return {
        "type": event,
        "timestamp": moment.isoformat().replace("+00:00", "Z"),
        "data": job_json(change.record),
    }


def webhooks_of(jobs: Jobs, settings: WebhookSettings) -> Webhooks:
    """The webhooks of jobs: they are delivered while the jobs are open."""
    hooks = Webhooks(WebhookStore(jobs.database), settings, describe)
    jobs.subscribe(hooks.hear)
    jobs.alongside(hooks.run)
    return hooks


def webhook_routes(gateway: Gateway, keys: ApiKeys, hooks: Webhooks) -> APIRouter:
    """The secret, and the deliveries of a job."""
    router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=guarded(keys))

    @router.get(
        "/webhooks/default/secret",
        summary="What verifies this key's webhooks",
        operation_id="webhook_secret",
        responses=documented(WebhookSecret, 401, 429, 500, 503, path="/v1/webhooks"),
    )
    async def secret(request: Request) -> Response:
        """It is made when it is first asked for, and belongs to the key and its rotations."""
        return json_response({"key": await hooks.secret(exchange_of(request).owner)})

    @router.post(
        "/webhooks/default/secret/rotate",
        summary="Make a new secret",
        operation_id="rotate_webhook_secret",
        responses=documented(WebhookSecret, 401, 429, 500, 503, path="/v1/webhooks"),
    )
    async def rotate(request: Request) -> Response:
        """The secret before it signs beside the new one for a day, so that no event is missed."""
        return json_response({"key": await hooks.rotate(exchange_of(request).owner)})

    @router.get(
        "/jobs/{job_id}/deliveries",
        summary="What became of a job's webhooks",
        operation_id="job_deliveries",
        responses=documented(WebhookDeliveries, 401, 404, 422, 429, 500, 503),
    )
    async def deliveries(
        request: Request,
        job_id: Annotated[
            str, Path(max_length=64, examples=["job-0123456789abcdef0123456789abcdef"])
        ],
    ) -> Response:
        """Each event with how often it was tried, and when it is tried next."""
        owner = exchange_of(request).owner
        await gateway.durable.get(owner, job_id)
        found = await hooks.deliveries(owner, job_id)
        return json_response({"object": "list", "data": [_plain(one) for one in found]})

    return router


def _plain(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "event": delivery.event,
        "url": delivery.url,
        "state": delivery.state,
        "created": delivery.created,
        "attempts": delivery.attempts,
        "next_attempt": delivery.due if delivery.state == "pending" else None,
        "said": delivery.said,
    }
