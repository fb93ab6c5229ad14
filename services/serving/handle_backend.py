"""The backend over Ray Serve: a deployment handle to a pool apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from opentelemetry.trace import NoOpTracer, SpanKind, Tracer
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import (
    DeploymentHandle,
    DeploymentResponse,
    DeploymentResponseGenerator,
)

from services.core.backend import Backend, PoolStatus
from services.core.errors import QueueFull, Unavailable, from_json
from services.core.job import Answer, Call, CallFinished, Event, RowFinished, Watch
from services.core.model import DocumentKind, ModelInfo
from services.core.trace_context import carrier_of, child_span
from services.core.versions import split_version
from services.serving.call_costs import CallCosts
from services.serving.errand import Errand
from services.serving.mailbox import Glimpse, Mailbox
from services.serving.replica_loads import ReplicaLoads, Sent, unpack_report
from services.serving.wire import (
    Plain,
    pack_call,
    pack_watch,
    unpack_event,
    unpack_model,
    unpack_outcome,
    unpack_status,
)

T = TypeVar("T")

ATTEMPTS = 2
RETRY_AFTER_SECONDS = 5.0
LOOK_SECONDS = 5.0
"""A question about a pool, unlike work for it, is not worth waiting for longer."""


class HandleBackend:
    """Implements `services.core.backend.Backend`.

    A replica that dies takes its calls with it. They are asked once more: the gateway fixed the
    seed, so a second answer is the first one.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        name: str,
        tracer: Tracer | None = None,
        shelf: Backend | None = None,
    ) -> None:
        """Reach a pool by its handle.

        Args:
            handle: to the pool's replicas.
            name: the pool's.
            tracer: makes a span of each call.
            shelf: describes the models of a pool that may have no replica, so that a look at them
                wakes none. Such a pool is always ready.
        """
        self._handle, self._name, self._tracer = handle, name, tracer or NoOpTracer()
        self._shelf = shelf
        self._costs, self._loads = CallCosts(), ReplicaLoads()

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`."""
        with self._hop(call) as there, self._errand(there) as errand:
            outcome = await self._retried(lambda: self._handle.run.remote(errand))
            self._hear(outcome)
            answer = unpack_outcome(outcome)
        self._costs.learn(call, answer.device_seconds)
        return answer

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`. After a replica's death, no image is told twice.

        Ray hands on whatever a replica says as fast as it can, so it is taken off its hands at
        once: what the reader has not come to is coalesced here, as it would be in the replica.
        """
        mailbox = Mailbox()
        with self._hop(call) as there:
            pump = asyncio.create_task(self._pump(there, watch, mailbox))
            try:
                async with aclosing(mailbox.batches()) as batches:
                    async for events in batches:
                        for event in events:
                            if isinstance(event, CallFinished):
                                self._costs.learn(call, event.device_seconds)
                            if not isinstance(event, Glimpse):
                                yield event
            finally:
                pump.cancel()
                await asyncio.wait({pump})

    async def models(self) -> Sequence[ModelInfo]:
        """See `Backend.models`."""
        if self._shelf is not None:
            return [self._as_it_is(info) for info in await self._shelf.models()]
        found = await self._look(self._handle.models.remote)
        return [unpack_model(plain) for plain in found]

    async def model(self, name: str) -> ModelInfo:
        """See `Backend.model`."""
        if self._shelf is not None:
            return self._as_it_is(await self._shelf.model(name))
        found = await self._look(lambda: self._handle.model.remote(name))
        if "error" in found:
            raise from_json(found["error"])
        return unpack_model(found["model"])

    async def document(self, name: str, kind: DocumentKind) -> bytes:
        """See `Backend.document`."""
        if self._shelf is not None:
            return await self._shelf.document(name, kind)
        found = await self._look(lambda: self._handle.document.remote(name, kind))
        if "error" in found:
            raise from_json(found["error"])
        content: bytes = found["content"]
        return content

    async def status(self) -> Sequence[PoolStatus]:
        """See `Backend.status`: all replicas together. A pool without one shows zero of them."""
        asked = self._handle.broadcast("status")
        try:
            answers = await asked.results_async(timeout_s=LOOK_SECONDS, return_exceptions=True)
        except (RayError, DeploymentUnavailableError, TimeoutError):
            answers = []
        told = [answer for answer in answers if not isinstance(answer, BaseException)]
        return [_together(self._name, [unpack_status(plain) for each in told for plain in each])]

    async def ready(self) -> bool:
        """See `Backend.ready`."""
        if self._shelf is not None:
            return True
        try:
            return bool(await self._look(self._handle.status.remote))
        except Unavailable:
            return False

    def _as_it_is(self, info: ModelInfo) -> ModelInfo:
        return replace(info, loaded=self._loads.is_loaded(info.id))

    @contextmanager
    def _hop(self, call: Call) -> Iterator[Call]:
        """The call as the pool is to see it: below a span of the way there and back."""
        attributes = {"atelier.pool": self._name, "atelier.model": call.model}
        with child_span(
            self._tracer, "atelier.pool", call.trace, attributes, SpanKind.CLIENT
        ) as span:
            yield replace(call, trace=carrier_of(span))

    @contextmanager
    def _errand(self, call: Call) -> Iterator[Errand]:
        """The call as the router is to see it, counted as long as it is under way."""
        sent = Sent(split_version(call.model)[0], self._costs.predict(call))
        try:
            yield Errand(pack_call(call), sent, self._loads)
        finally:
            self._loads.done(sent)

    def _hear(self, plain: Plain) -> None:
        """Take out of an answer what its replica says of itself."""
        report = plain.pop("report", None)
        if report is not None:
            self._loads.hear(unpack_report(report))

    async def _pump(self, call: Call, watch: Watch, mailbox: Mailbox) -> None:
        """Carry every event from a replica into the mailbox, or the error that ended them."""
        told: set[int] = set()

        async def once(errand: Errand) -> None:
            events = cast(
                "DeploymentResponseGenerator[list[Plain]]",
                self._handle.options(stream=True).stream.remote(errand, pack_watch(watch)),
            )
            try:
                async for batch in events:
                    for plain in batch:
                        self._hear(plain)
                        _post(plain, mailbox, told)
            except asyncio.CancelledError:
                events.cancel()
                raise

        try:
            with self._errand(call) as errand:
                await self._retried(lambda: once(errand))
            mailbox.fail(self._unavailable())  # read only where the events broke off
        except Exception as error:  # noqa: BLE001 - the reader is who has to know
            mailbox.fail(error)

    async def _look(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self._retried(ask)
        except TimeoutError as error:
            raise self._unavailable() from error

    async def _retried(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await _withdrawable(ask())
            except BackPressureError as error:
                message = f"pool '{self._name}' holds as many requests as it may"
                raise QueueFull(message, retry_after=1.0) from error
            except (RayActorError, DeploymentUnavailableError) as error:
                if attempt == ATTEMPTS:
                    raise self._unavailable() from error
            except RayError as error:
                raise self._unavailable() from error
        raise self._unavailable()

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"no replica of pool '{self._name}' is available; it is being restarted",
            retry_after=RETRY_AFTER_SECONDS,
        )


def _together(name: str, found: Sequence[PoolStatus]) -> PoolStatus:
    """What a pool's replicas say, as one."""
    return PoolStatus(
        name=name,
        placement="apart",
        replicas=len(found),
        loaded=tuple(sorted({model for each in found for model in each.loaded})),
        queue_seconds=sum(each.queue_seconds for each in found),
        trajectories=sum(each.trajectories for each in found),
        heartbeat_age=max((each.heartbeat_age for each in found), default=0.0),
    )


def _post(plain: Plain, mailbox: Mailbox, told: set[int]) -> None:
    """Put one event of a replica into the mailbox, unless it is an image that was told before.

    Raises:
        AtelierError: the event says that the call failed.
    """
    if "error" in plain:
        raise from_json(plain["error"])
    event = unpack_event(plain)
    if isinstance(event, RowFinished):
        if event.row in told:
            return
        told.add(event.row)
    mailbox.put(event)


async def _withdrawable(response: Awaitable[T]) -> T:
    """Await a response; when the caller is cancelled, the replica is told."""
    try:
        return await response
    except asyncio.CancelledError:
        if isinstance(response, DeploymentResponse):
            response.cancel()
        raise
