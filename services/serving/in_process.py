"""The backend without a network: a device, its registry and its loop in this process.

Ray Serve's replicas hold one each; tests, benchmarks and the offline CLI use it directly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any

import torch

from services.core.backend import PoolStatus
from services.core.decoder import Decoder
from services.core.engine import Engine
from services.core.errors import ModelError, UnsupportedTask
from services.core.images import ImageLimits
from services.core.job import (
    Answer,
    Call,
    CallFinished,
    Event,
    Job,
    Queued,
    RowFinished,
    Timings,
    Watch,
)
from services.core.model import DocumentKind, ModelInfo
from services.core.source import ModelSource
from services.core.versions import of_version
from services.runtime.loop import Loop
from services.runtime.observer import Observer
from services.runtime.registry import LoadedModel, Registry
from services.runtime.ticket import Finished, Ticket
from services.serving.call_spans import CallSpans, Followed
from services.serving.image_threads import ImageThreads
from services.serving.loading import Loading
from services.serving.mailbox import Mailbox
from services.serving.watcher import Watcher

STALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How one device is used.

    Attributes:
        name: the pool's name.
        models: which models it offers; ``None`` for all in the store.
        elsewhere: models of the store that are left to other pools.
        preload: which of them are loaded before it says that it is ready.
        queue_seconds: the most predicted device time of accepted work.
        max_loaded: models held at once.
        stall_seconds: a loop with work that gives no sign of life for this long is unhealthy.
        drain_seconds: how long accepted work may go on when the replica is told to stop.
        knees: by model and stage, rows of a batch in place of the measured knee.
    """

    name: str = "default"
    models: tuple[str, ...] | None = None
    elsewhere: frozenset[str] = frozenset()
    preload: tuple[str, ...] = ()
    queue_seconds: float = 30.0
    max_loaded: int = 64
    stall_seconds: float = STALL_SECONDS
    drain_seconds: float = 20.0
    knees: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class InProcessBackend:
    """Implements `services.core.backend.Backend`.

    Args:
        source: where models come from.
        families: engine classes by family name.
        settings: of the pool.
        device: what the engines run on.
        limits: for uploaded images.
        decoder: of uploaded images; in this process when absent. Who gives it closes it.
        observer: told what the loop does.
        on_load: told a model and the seconds that loading it took.
        spans: makes those of the calls; none are made when absent.
    """

    def __init__(  # noqa: PLR0913 - each is a decision of its own, made by the caller
        self,
        source: ModelSource,
        families: Mapping[str, type[Engine]],
        *,
        settings: PoolSettings | None = None,
        device: torch.device | None = None,
        limits: ImageLimits | None = None,
        decoder: Decoder | None = None,
        observer: Observer | None = None,
        on_load: Callable[[str, float], None] = lambda model, seconds: None,
        spans: CallSpans | None = None,
    ) -> None:
        self._spans = spans or CallSpans()
        self.settings = settings or PoolSettings()
        lock = Lock()
        self.registry = Registry(
            source,
            families,
            device or torch.device("cpu"),
            lock,
            only=self.settings.models,
            without=self.settings.elsewhere,
            max_loaded=self.settings.max_loaded,
            knees=self.settings.knees,
            limits=limits,
            decoder=decoder,
            on_load=on_load,
        )
        self.loop = Loop(lock, queue_seconds=self.settings.queue_seconds, observer=observer)
        self._loading = Loading(self.registry, self.settings.preload)
        self._images = ImageThreads(decoding_waits=decoder is not None and decoder.waits)

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`."""
        model, jobs = await self._admitted(call)
        with self._spans.followed(call, len(jobs)) as followed:
            tickets = self.loop.submit(model, jobs, trail=followed.trail)
            try:
                finished = await self._outcomes(tickets)
            except BaseException:
                self.loop.withdraw(tickets)
                raise
            answer = await self._answer(call, finished, followed)
            return replace(answer, versions=_versions(model))

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`."""
        async with aclosing(self.watched(call, watch)) as batches:
            async for events in batches:
                for event in events:
                    yield event

    async def watched(self, call: Call, watch: Watch) -> AsyncGenerator[list[Event], None]:
        """As `stream`, with everything that came since the last look at once."""
        model, jobs = await self._admitted(call)
        resolution = model.engine.model.resolution
        mailbox = Mailbox()
        with self._spans.followed(call, len(jobs)) as followed:
            tickets = self.loop.submit(model, jobs, Watcher(mailbox, watch), followed.trail)
            delivery = asyncio.create_task(self._deliver(call, tickets, mailbox, followed))
            try:
                yield [replace(self._place(tickets), versions=_versions(model))]
                async with aclosing(mailbox.batches()) as batches:
                    async for found in batches:
                        yield [
                            await self._images.shown(event, resolution, call.encoding)
                            for event in found
                        ]
            finally:
                self.loop.withdraw(tickets)
                delivery.cancel()
                await asyncio.wait({delivery})

    async def models(self) -> Sequence[ModelInfo]:
        """See `Backend.models`. A model whose manifest cannot be used is not listed."""
        found = []
        for name in self.registry.names():
            try:
                found.append(await self.model(name))
            except ModelError:
                continue
        return found

    async def model(self, name: str) -> ModelInfo:
        """See `Backend.model`."""
        found = self.registry.serving(name)
        return replace(
            found.info,
            loaded=found.ready,
            adapters=tuple(found.engine.adapters()),
            digest=found.fingerprint,
        )

    async def document(self, name: str, kind: DocumentKind) -> bytes:
        """See `Backend.document`."""
        return await self._images.read(partial(self.registry.document, name, kind))

    async def status(self) -> Sequence[PoolStatus]:
        """See `Backend.status`."""
        status = self.loop.status()
        return [
            PoolStatus(
                name=self.settings.name,
                placement="fused",
                replicas=1,
                loaded=tuple(self.registry.loaded()),
                queue_seconds=status.queue_seconds,
                trajectories=status.trajectories,
                heartbeat_age=status.heartbeat_age,
            )
        ]

    async def ready(self) -> bool:
        """See `Backend.ready`."""
        return self._loading.preloaded and self.healthy()

    def healthy(self) -> bool:
        """Whether the loop runs and has given a sign of life lately."""
        status = self.loop.status()
        return status.alive and status.heartbeat_age < self.settings.stall_seconds

    def preload(self) -> None:
        """Load the models that were asked for; then the pool is ready. See `Loading.preload`.

        Raises:
            ModelNotFound, ModelError: a model that was asked for by name cannot be loaded.
        """
        self._loading.preload()

    def close(self) -> None:
        """Finish what was accepted, within the time that the settings give; then stop."""
        self.loop.close(drain_seconds=self.settings.drain_seconds)
        self._images.close()

    async def _admitted(self, call: Call) -> tuple[LoadedModel, list[Job[Any]]]:
        """The model, loaded, and the call's rows, checked."""
        arrived = time.monotonic()
        model = await self._loading.answering(of_version(call.model, call.version))
        deadline = None if call.deadline is None else arrived + call.deadline
        jobs = await self._jobs(model, call, deadline)
        await self._loading.open_late(model, jobs[0])
        return model, jobs

    def _place(self, tickets: Sequence[Ticket]) -> Queued:
        status, rows = self.loop.status(), len(tickets)
        return Queued(rows, max(0, status.trajectories - rows), status.queue_seconds)

    async def _deliver(
        self, call: Call, tickets: Sequence[Ticket], mailbox: Mailbox, followed: Followed
    ) -> None:
        """Put each row's image into the mailbox as soon as it is done, and the end after them."""

        async def one(row: int, ticket: Ticket) -> Finished:
            finished = await asyncio.wrap_future(ticket.future)
            began = time.monotonic()
            (item,), seconds = await self._images.encoded([finished.result], call.encoding)
            followed.encoded(began, time.monotonic())
            mailbox.put(RowFinished(row, item))
            return replace(finished, timings=replace(finished.timings, encode=seconds))

        rows = [asyncio.create_task(one(*place)) for place in enumerate(tickets)]
        try:
            done = await asyncio.gather(*rows)
            timings = [f.timings for f in done]
            slowest = _slowest(timings, sum(t.encode for t in timings))
            used = sum(f.device_seconds for f in done)
            versions = _versions(tickets[0].model)
            mailbox.put(CallFinished(call.model, slowest, device_seconds=used, versions=versions))
        except Exception as error:  # noqa: BLE001 - the reader is who has to know
            mailbox.fail(error)
        finally:
            for row in rows:
                row.cancel()

    async def _jobs(self, model: LoadedModel, call: Call, deadline: float | None) -> list[Job[Any]]:
        try:
            return await self._images.decoded(
                call, lambda: model.engine.jobs(call, deadline=deadline)
            )
        except UnsupportedTask as refusal:
            raise await self._with_alternatives(refusal, call) from refusal

    async def _with_alternatives(self, refusal: UnsupportedTask, call: Call) -> UnsupportedTask:
        """A refusal that also names those of this pool that can do it, if the caller sees them."""
        models = [m for m in await self.models() if call.sees(m.id)]
        able = [m.id for m in models if call.name in m.operations]
        hint = f" (of these models: {', '.join(able)})" if able else ""
        return UnsupportedTask(f"{refusal.message}{hint}", param=refusal.param)

    async def _outcomes(self, tickets: Sequence[Ticket]) -> list[Finished]:
        futures = [asyncio.wrap_future(ticket.future) for ticket in tickets]
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    async def _answer(self, call: Call, finished: Sequence[Finished], followed: Followed) -> Answer:
        began = time.monotonic()
        items, seconds = await self._images.encoded([f.result for f in finished], call.encoding)
        followed.encoded(began, time.monotonic())
        timings = _slowest([f.timings for f in finished], seconds)
        used = sum(f.device_seconds for f in finished)
        return Answer(call.model, items, timings, device_seconds=used)


def _versions(model: LoadedModel) -> dict[str, str]:
    return {model.name: model.fingerprint}


def _slowest(timings: Sequence[Timings], encode: float) -> Timings:
    return Timings(
        queue=max(t.queue for t in timings),
        prepare=max(t.prepare for t in timings),
        step=max(t.step for t in timings),
        decode=max(t.decode for t in timings),
        encode=encode,
    )
