"""The backend without a network: a device, its registry and its loop in this process.

Ray Serve's replicas hold one each; tests, benchmarks and the offline CLI use it directly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import torch

from services.core import images as codec
from services.core.backend import PoolStatus
from services.core.decoder import Decoder
from services.core.engine import Engine
from services.core.errors import AtelierError, ModelError, UnsupportedTask
from services.core.images import ImageLimits
from services.core.job import (
    Answer,
    Call,
    CallFinished,
    Encoding,
    Event,
    Item,
    Job,
    Queued,
    RowFinished,
    Timings,
    Watch,
)
from services.core.model import DocumentKind, ModelInfo
from services.core.source import ModelSource
from services.core.trajectory import Result
from services.core.versions import of_version
from services.runtime.loop import Loop
from services.runtime.observer import Observer
from services.runtime.registry import LoadedModel, Registry
from services.runtime.ticket import Finished, Ticket
from services.serving.call_spans import CallSpans, Followed
from services.serving.mailbox import Glimpse, Mailbox
from services.serving.watcher import Watcher, encoded

SMALL_IMAGE_PIXELS = 128 * 128
"""Below this an image is decoded and encoded where we stand; a thread's hop would cost more."""
STALL_SECONDS = 60.0
EVERY_MODEL = "*"

log = logging.getLogger(__name__)


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
        self._decoding_waits = decoder is not None and decoder.waits
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
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="atelier-codec")
        # Their own: uploads that take long to decode must not keep answers from being encoded.
        self._uploads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="atelier-uploads")
        self._preloaded = not self.settings.preload

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
        mailbox = Mailbox()
        with self._spans.followed(call, len(jobs)) as followed:
            tickets = self.loop.submit(model, jobs, Watcher(mailbox, watch), followed.trail)
            delivery = asyncio.create_task(self._deliver(call, tickets, mailbox, followed))
            try:
                yield [replace(self._place(tickets), versions=_versions(model))]
                async with aclosing(mailbox.batches()) as batches:
                    async for found in batches:
                        yield [await self._event(event, model, call.encoding) for event in found]
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
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self.registry.document, name, kind
        )

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
        return self._preloaded and self.healthy()

    def healthy(self) -> bool:
        """Whether the loop runs and has given a sign of life lately."""
        status = self.loop.status()
        return status.alive and status.heartbeat_age < self.settings.stall_seconds

    def preload(self) -> None:
        """Load the models that were asked for, one after the other; then the pool is ready.

        Among all models (``*``) one that cannot be loaded is passed over: it must not keep the
        others from being served.

        Raises:
            ModelNotFound, ModelError: a model that was asked for by name cannot be loaded.
        """
        for name in self.settings.preload:
            if name != EVERY_MODEL:
                self.registry.load(name)
        if EVERY_MODEL in self.settings.preload:
            for name in self.registry.names():
                try:
                    self.registry.load(name)
                except AtelierError as error:
                    log.warning("model '%s' is not preloaded: %s", name, error)
        self._preloaded = True

    def close(self) -> None:
        """Finish what was accepted, within the time that the settings give; then stop."""
        self.loop.close(drain_seconds=self.settings.drain_seconds)
        for threads in (self._threads, self._uploads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _admitted(self, call: Call) -> tuple[LoadedModel, list[Job[Any]]]:
        """The model, loaded, and the call's rows, checked."""
        arrived = time.monotonic()
        model = await self._load(of_version(call.model, call.version))
        deadline = None if call.deadline is None else arrived + call.deadline
        jobs = await self._jobs(model, call, deadline)
        part = self.registry.late_part(model, jobs[0])
        if part is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self.registry.open_late, model, part)
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
            (item,), seconds = await self._encoded([finished], call.encoding)
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

    async def _event(self, found: Event | Glimpse, model: LoadedModel, encoding: Encoding) -> Event:
        if not isinstance(found, Glimpse):
            return found
        resolution = model.engine.model.resolution
        if resolution[0] * resolution[1] <= SMALL_IMAGE_PIXELS:
            return encoded(found, resolution, encoding)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, encoded, found, resolution, encoding
        )

    async def _load(self, name: str) -> LoadedModel:
        wanted, loop = self.registry.find(name), asyncio.get_running_loop()
        if wanted.ready:
            return self.registry.load(name)
        standing_in = self.registry.serving(name)
        if standing_in is wanted or not standing_in.ready:
            return await loop.run_in_executor(None, self.registry.load, name)
        if not wanted.begun:
            wanted.begun = True
            loop.run_in_executor(None, self.registry.catch_up)
        return standing_in

    async def _jobs(self, model: LoadedModel, call: Call, deadline: float | None) -> list[Job[Any]]:
        def split() -> list[Job[Any]]:
            return model.engine.jobs(call, deadline=deadline)

        try:
            if not self._is_slow_to_decode(call):
                return split()
            return await asyncio.get_running_loop().run_in_executor(self._uploads, split)
        except UnsupportedTask as refusal:
            raise await self._with_alternatives(refusal, call) from refusal

    def _is_slow_to_decode(self, call: Call) -> bool:
        """Whether a call's files are decoded off the event loop."""
        files = _files(call)
        if self._decoding_waits:
            return bool(files)
        return _pixels(files) > SMALL_IMAGE_PIXELS

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

    async def _encoded(
        self, finished: Sequence[Finished], encoding: Encoding
    ) -> tuple[tuple[Item, ...], float]:
        """Items with their images encoded, and the seconds that this took."""

        def encode() -> tuple[tuple[Item, ...], float]:
            started = time.monotonic()
            items = tuple(_item(f.result, encoding) for f in finished)
            return items, time.monotonic() - started

        if sum(_size(f.result) for f in finished) <= SMALL_IMAGE_PIXELS:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self._threads, encode)

    async def _answer(self, call: Call, finished: Sequence[Finished], followed: Followed) -> Answer:
        began = time.monotonic()
        items, seconds = await self._encoded(finished, call.encoding)
        followed.encoded(began, time.monotonic())
        timings = _slowest([f.timings for f in finished], seconds)
        used = sum(f.device_seconds for f in finished)
        return Answer(call.model, items, timings, device_seconds=used)


def _versions(model: LoadedModel) -> dict[str, str]:
    return {model.name: model.fingerprint}


def _files(call: Call) -> list[bytes]:
    return [*call.images, *([call.mask] if call.mask else []), *call.controls]


def _pixels(files: Sequence[bytes]) -> int:
    """Pixels to decode, by the files' headers: few bytes can hold many.

    Files that cannot be read count nothing; they are refused without being decoded.
    """
    total = 0
    for data in files:
        try:
            header = codec.read_header(data, ImageLimits())
        except AtelierError:
            continue
        total += header.width * header.height
    return total


def _size(result: Result) -> int:
    return 0 if result.pixels is None else result.pixels.shape[1] * result.pixels.shape[2]


def _item(result: Result, encoding: Encoding) -> Item:
    if result.pixels is None:
        return Item(result.values)
    return Item(result.values, codec.encode(result.pixels, encoding))


def _slowest(timings: Sequence[Timings], encode: float) -> Timings:
    return Timings(
        queue=max(t.queue for t in timings),
        prepare=max(t.prepare for t in timings),
        step=max(t.step for t in timings),
        decode=max(t.decode for t in timings),
        encode=encode,
    )
