"""Is it alive, would it take work, how is it doing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from services.core.errors import Unavailable
from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.job_metrics import job_series
from services.gateway.openapi import documented, guarded


class Health(BaseModel):
    """A word."""

    status: Literal["alive", "ready"]


class Pool(BaseModel):
    """How a pool is doing; see `services.core.backend.PoolStatus`."""

    name: str
    placement: str
    replicas: int
    loaded: list[str]
    queue_seconds: float
    trajectories: int
    heartbeat_age: float


class Provenance(BaseModel):
    """Whether images are signed; see `services.provenance.stamping.ProvenanceStatus`."""

    enabled: bool
    certificate: Literal["development", "configured"] | None
    expires: str | None
    watermark: str | None
    note: str | None


class ServiceStatus(BaseModel):
    """Every pool, and whether work would be taken now."""

    ready: bool
    pools: list[Pool]
    provenance: Provenance


def health_routes(gateway: Gateway) -> APIRouter:
    """``/livez``, ``/readyz`` and ``/metrics``: for machines, without a key."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/livez",
        summary="Whether the process answers",
        operation_id="livez",
        responses=documented(Health),
    )
    async def livez() -> Response:
        return json_response({"status": "alive"})

    @router.get(
        "/readyz",
        summary="Whether work would be taken now",
        operation_id="readyz",
        responses=documented(Health, 503),
    )
    async def readyz() -> Response:
        if not await gateway.backend.ready():
            raise Unavailable("no replica is ready to take work", retry_after=1)
        return json_response({"status": "ready"})

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        operation_id="metrics",
        responses={
            200: {
                "description": "Every series, of all replicas of this machine.",
                "content": {"text/plain": {}, "application/openmetrics-text": {}},
            }
        },
        response_class=Response,
    )
    async def metrics(request: Request) -> Response:
        """Who takes OpenMetrics gets exemplars too: the id of a trace behind each latency."""
        accept, jobs = request.headers.get("accept", ""), await job_series(gateway.jobs)
        page, media_type = gateway.metrics.render(accept, jobs)
        return Response(page, headers={"content-type": media_type})

    return router


def status_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """``/v1/status``: for people, with a key where keys are set."""
    router = APIRouter(prefix="/v1", tags=["health"], dependencies=guarded(keys))

    @router.get(
        "/status",
        summary="How every pool is doing",
        operation_id="status",
        responses=documented(ServiceStatus, 401, 429, 500, 503),
    )
    async def status(request: Request) -> Response:
        caller = exchange_of(request).caller
        pools = [
            {**asdict(pool), "loaded": [name for name in pool.loaded if caller.sees(name)]}
            for pool in await gateway.backend.status()
        ]
        return json_response(
            {
                "ready": await gateway.backend.ready(),
                "pools": pools,
                "provenance": asdict(gateway.provenance),
            }
        )

    return router
