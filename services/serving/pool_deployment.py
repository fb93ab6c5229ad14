"""A pool apart: engines in replicas of their own, one hop from the gateway."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry
from ray import serve

from services.core.errors import AtelierError
from services.core.images import ImageLimits
from services.core.isolated_decoder import DecodingSettings, decoder_of
from services.core.logs import LogSettings, speaking_of
from services.core.model import DocumentKind
from services.gateway.tracing_settings import TracingSettings
from services.serving.autoscaling import OFFERED, QUEUE
from services.serving.call_spans import CallSpans
from services.serving.in_process import InProcessBackend
from services.serving.keeper import Keeper
from services.serving.local import local_backend, open_store
from services.serving.logs import start_logging
from services.serving.process_metrics import PoolMetrics, ProcessMetrics
from services.serving.replica_loads import Report, pack_report
from services.serving.replica_port import stay_on_loopback
from services.serving.settings import Pool
from services.serving.shared_metrics import make_folder
from services.serving.tracing import open_tracing
from services.serving.wire import (
    Plain,
    pack_event,
    pack_model,
    pack_outcome,
    pack_status,
    unpack_call,
    unpack_watch,
)


class PoolReplica:
    """One replica of a pool, whatever families its models are of.

    Errors travel as values: an exception of ours would be pickled, and Ray would wrap it.
    """

    def __init__(
        self,
        pool: Plain,
        elsewhere: list[str],
        store: str | None,
        limits: Plain,
        seen: Plain,
    ) -> None:
        """Open the device and load what is to be preloaded; the replica is ready after that.

        Args:
            pool: its settings.
            elsewhere: models that a pool of ``*`` leaves to others.
            store: folder of the user's models.
            limits: for uploaded images.
            seen: the gateway's settings of ``log``, ``tracing``, ``decoding`` and ``pins``.
        """
        stay_on_loopback(os.environ)
        make_folder(os.environ)
        start_logging(LogSettings(**seen["log"]))
        settings = Pool.model_validate(pool)
        self._tracing = open_tracing(os.environ, part=settings.name)
        self._decoder = decoder_of(DecodingSettings(**seen["decoding"]), ImageLimits(**limits))
        self._name = serve.get_replica_context().replica_id.unique_id
        self._backend = self._open(
            settings,
            store,
            frozenset(elsewhere),
            ImageLimits(**limits),
            ProcessMetrics(CollectorRegistry()).of_pool(settings.name),
            CallSpans(self._tracing.tracer, TracingSettings(**seen["tracing"]).step_spans),
        )
        self._backend.preload()
        self._keeper = Keeper(
            self._backend.registry, open_store(store), pins=seen.get("pins")
        ).start()
        self._recorded = 0.0, time.monotonic()

    def _open(
        self,
        settings: Pool,
        store: str | None,
        elsewhere: frozenset[str],
        limits: ImageLimits,
        metrics: PoolMetrics,
        spans: CallSpans,
    ) -> InProcessBackend:
        """The engines; a load test puts others in their place."""
        return local_backend(
            settings,
            store=open_store(store),
            elsewhere=elsewhere,
            limits=limits,
            decoder=self._decoder,
            metrics=metrics,
            spans=spans,
        )

    async def run(self, call: Plain) -> Plain:
        """One call; a cancelled request reaches it as `asyncio.CancelledError`."""
        try:
            with speaking_of(request_id=call["id"]):
                return self._with_report(pack_outcome(await self._backend.run(unpack_call(call))))
        except AtelierError as error:
            return self._with_report(pack_outcome(error))

    async def stream(self, call: Plain, watch: Plain) -> AsyncGenerator[list[Plain], None]:
        """One call and what happens to it; what happened since the last look travels together."""
        batches = self._backend.watched(unpack_call(call), unpack_watch(watch))
        async with aclosing(batches):
            try:
                async for events in batches:
                    packed = [pack_event(event) for event in events]
                    yield [*packed[:-1], self._with_report(packed[-1])]
            except AtelierError as error:
                yield [self._with_report(pack_outcome(error))]

    async def models(self) -> list[Plain]:
        """Every model of the pool."""
        return [pack_model(info) for info in await self._backend.models()]

    async def model(self, name: str) -> dict[str, Any]:
        """One model, or the error that says that there is none."""
        try:
            return {"model": pack_model(await self._backend.model(name))}
        except AtelierError as error:
            return {"error": error.to_json()}

    async def document(self, name: str, kind: DocumentKind) -> dict[str, Any]:
        """What comes with a model for people, or the error that says that it does not."""
        try:
            return {"content": await self._backend.document(name, kind)}
        except AtelierError as error:
            return {"error": error.to_json()}

    async def status(self) -> list[Plain]:
        """How this replica is doing."""
        found = await self._backend.status()
        return [pack_status(replace(status, placement="apart")) for status in found]

    def record_routing_stats(self) -> Plain:
        """Called by Serve from time to time: what gateways that ask nothing here should know."""
        return pack_report(self._report())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve from time to time: what `services.serving.autoscaling` goes by."""
        status, now = self._backend.loop.status(), time.monotonic()
        accepted, since = self._recorded
        self._recorded = status.accepted_seconds, now
        offered = (status.accepted_seconds - accepted) / max(now - since, 1e-3)
        return {QUEUE: status.queue_seconds, OFFERED: offered}

    def _report(self) -> Report:
        return Report(
            replica=self._name,
            at=time.monotonic(),
            queue_seconds=round(self._backend.loop.status().queue_seconds, 3),
            loaded=self._backend.registry.loading_seconds(),
        )

    def _with_report(self, plain: Plain) -> Plain:
        return {**plain, "report": pack_report(self._report())}

    def check_health(self) -> None:
        """Called by Serve: a replica whose loop has stalled is replaced.

        Raises:
            RuntimeError: the loop gave no sign of life for too long.
        """
        if not self._backend.healthy():
            raise RuntimeError("the engine loop has stalled")

    async def __del__(self) -> None:
        """Called by Serve once no request is left; finish what the loop still holds."""
        self._keeper.close()
        await asyncio.to_thread(self._backend.close)
        await asyncio.to_thread(self._decoder.close)
        await asyncio.to_thread(self._tracing.close)
