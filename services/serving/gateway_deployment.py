"""The gateway as a Ray Serve deployment, with the pools that are fused into it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from prometheus_client import CollectorRegistry
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from services.core.isolated_decoder import decoder_of
from services.gateway.app import create_app
from services.gateway.audit_log import AuditLog
from services.gateway.exchange import InFlight, nowhere
from services.gateway.settings import GatewaySettings
from services.jobs.composition import jobs_for
from services.serving.call_spans import CallSpans
from services.serving.cascade import Cascades
from services.serving.classifier_policy import policy_factories
from services.serving.edge import EDGE_VARIABLE
from services.serving.handle_backend import HandleBackend
from services.serving.in_process import InProcessBackend
from services.serving.keeper import Keeper
from services.serving.local import local_backend, open_store
from services.serving.logs import start_logging
from services.serving.pools import Pools, Route
from services.serving.process_metrics import ProcessMetrics
from services.serving.replica_port import stay_on_loopback
from services.serving.rollouts import RolloutMetrics, Rollouts
from services.serving.settings import Deployment, Pool
from services.serving.shared_metrics import SharedMetrics, make_folder
from services.serving.siblings import withdraw_elsewhere
from services.serving.tracing import open_tracing
from services.serving.trials import Trials


class GatewayReplica:
    """One replica of the gateway. Decorated with `serve.ingress` by the application builder."""

    def __init__(self, deployment: dict[str, Any], **handles: DeploymentHandle[Any]) -> None:
        """Open the fused pools and reach the others by their handles, keyed by pool name."""
        stay_on_loopback(os.environ)
        settings = Deployment.model_validate(deployment)
        # Serve adds a request id of its own; where our edge is in place, it keeps ours alone.
        own_id = {"emit_request_id": EDGE_VARIABLE in os.environ}
        self._settings = GatewaySettings(**{**own_id, **settings.gateway})
        start_logging(self._settings.log)
        self._tracing = open_tracing(os.environ, part="gateway")
        spans = CallSpans(self._tracing.tracer, self._settings.tracing.step_spans)
        self._store = settings.store
        make_folder(os.environ)
        self._decoder = decoder_of(self._settings.decoding, self._settings.image_limits)
        self._in_flight = InFlight()
        self._elsewhere = withdraw_elsewhere if settings.gateway_replicas > 1 else nowhere
        self._registry = CollectorRegistry()
        metrics = ProcessMetrics(self._registry)
        self._fused = [
            local_backend(
                pool,
                store=open_store(settings.store),
                elsewhere=settings.claimed_elsewhere(pool),
                limits=self._settings.image_limits,
                decoder=self._decoder,
                metrics=metrics.of_pool(pool.name),
                spans=spans,
            )
            for pool in settings.pools
            if pool.placement == "fused"
        ]
        for backend in self._fused:
            backend.preload()
        self._keepers = [
            Keeper(backend.registry, open_store(settings.store), pins=self._settings.pins).start()
            for backend in self._fused
        ]
        shelf = open_store(settings.store)
        self._rollout_metrics = RolloutMetrics(self._registry)
        self._trials = Trials(shelf, tell=self._tell_of_trial).start()
        self._shelves: list[InProcessBackend] = []
        by_name = {backend.settings.name: backend for backend in self._fused}
        pools = Pools(
            [
                Route(
                    by_name[pool.name]
                    if pool.name in by_name
                    else HandleBackend(
                        handles[pool.name],
                        pool.name,
                        self._tracing.tracer,
                        self._shelf(pool, settings) if pool.may_sleep else None,
                    ),
                    frozenset() if pool.takes_the_rest else frozenset(pool.models),
                )
                for pool in settings.pools
            ]
        )

        self._backend = Rollouts(
            pools, shelf.plans, self._trials, self._rollout_metrics, pins=self._settings.pins
        )

    def _tell_of_trial(self, event: dict[str, Any]) -> None:
        """Count the end of a trial, and write it down where a log is kept."""
        self._rollout_metrics.ended(event)
        if self._settings.audit.enabled:
            AuditLog(self._settings.audit_folder, self._settings.audit).write(event)

    def _shelf(self, pool: Pool, settings: Deployment) -> InProcessBackend:
        """What describes the models of a pool that may have no replica; it loads none."""
        shelf = local_backend(
            pool,
            store=open_store(settings.store),
            elsewhere=settings.claimed_elsewhere(pool),
            limits=self._settings.image_limits,
        )
        self._shelves.append(shelf)
        return shelf

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve after construction."""
        return create_app(
            Cascades(self._backend, self._tracing.tracer),
            self._settings,
            metrics=SharedMetrics(self._registry),
            in_flight=self._in_flight,
            elsewhere=self._elsewhere,
            tracer=self._tracing.tracer,
            policies=policy_factories(self._store),
            make_jobs=jobs_for(self._settings.jobs, self._settings.jobs_folder),
            decoder=self._decoder,
        )

    async def withdraw(self, request_id: str, owner: str) -> bool:
        """Asked by another replica, which was told to withdraw a request that may be ours."""
        return self._in_flight.withdraw(request_id, owner)

    def check_health(self) -> None:
        """Called by Serve: a replica with a stalled loop is replaced.

        Raises:
            RuntimeError: a fused pool's loop gave no sign of life for too long.
        """
        if not all(backend.healthy() for backend in self._fused):
            raise RuntimeError("the engine loop of a fused pool has stalled")

    async def __del__(self) -> None:
        """Called by Serve once no request is left."""
        self._trials.close()
        for keeper in self._keepers:
            keeper.close()
        for backend in [*self._fused, *self._shelves]:
            await asyncio.to_thread(backend.close)
        await asyncio.to_thread(self._decoder.close)
        await asyncio.to_thread(self._tracing.close)
