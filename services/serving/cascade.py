"""Cascades: what one model generates, another enlarges, in one request (Ho et al., 2021).

A cascade is two calls behind one, whichever pools and processes the two models are in. Each stage's
rows share batches with everybody else's, and withdrawing the call withdraws the stage it is in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from opentelemetry.trace import NoOpTracer, Tracer

from services.core.backend import Backend, BackendOver
from services.core.errors import (
    DeadlineExceeded,
    InvalidParameter,
    ModelNotFound,
    UnsupportedTask,
)
from services.core.job import (
    Answer,
    Call,
    CallFinished,
    Encoding,
    Event,
    Item,
    Progress,
    Queued,
    RowFinished,
    StageTimings,
    Task,
    Timings,
    Watch,
)
from services.core.trace_context import Carrier, carrier_of, child_span

T = TypeVar("T")

FIELD = "cascade"
OPERATION = "super_resolution"


@dataclass(frozen=True, slots=True)
class _Stages:
    """The two calls behind one.

    Attributes:
        first: generates; its images travel without loss.
        second: the model that enlarges.
        encoding: of the answer.
        ends: on ``time.monotonic``, the deadline; ``None`` for none.
    """

    first: Call
    second: str
    encoding: Encoding
    ends: float | None

    def enlarging(self, row: int, item: Item, trace: Carrier) -> Call:
        """The second call for one image of the first; it has the image's own seed.

        Raises:
            DeadlineExceeded: nothing is left of the deadline.
        """
        if item.image is None:
            raise UnsupportedTask(f"{self.first.model} made no image to enlarge", param=FIELD)
        left = None if self.ends is None else self.ends - time.monotonic()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the deadline passed before the image could be enlarged")
        return Call(
            id=f"{self.first.id}/{FIELD}/{row}",
            model=self.second,
            task=Task.EDIT,
            operation=OPERATION,
            parameters={"seed": item.values.get("seed", row)},
            images=(item.image,),
            encoding=self.encoding,
            deadline=left,
            tenant=self.first.tenant,
            background=self.first.background,
            weight=self.first.weight,
            trace=trace,
            visible=self.first.visible,
        )


class Cascades(BackendOver):
    """Implements `services.core.backend.Backend` over another, and answers `cascade` itself."""

    def __init__(self, backend: Backend, tracer: Tracer | None = None) -> None:
        """Take the backend that has the models, and what makes a span of each stage."""
        super().__init__(backend)
        self._tracer = tracer or NoOpTracer()

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`."""
        if not _is_cascade(call):
            return await self._backend.run(call)
        stages = await self._stages(call)
        with self._stage(stages.first) as trace:
            first = await self._backend.run(replace(stages.first, trace=trace))
        with self._stage(stages.first, stages.second) as trace:
            calls = [stages.enlarging(row, item, trace) for row, item in enumerate(first.items)]
            answers = await _all(self._backend.run(one) for one in calls)
        items = [
            _enlarged(item, answer.items[0])
            for item, answer in zip(first.items, answers, strict=True)
        ]
        second = _slowest([answer.timings for answer in answers])
        return Answer(
            model=call.model,
            items=tuple(items),
            timings=_sum(first.timings, second),
            stages=(
                StageTimings(stages.first.model, first.timings),
                StageTimings(stages.second, second),
            ),
            device_seconds=sum(answer.device_seconds for answer in (first, *answers)),
            versions={k: v for one in (first, *answers) for k, v in one.versions.items()},
        )

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`; previews are the first model's, and so is the place in the queue.

        Steps are counted over both stages.
        """
        if not _is_cascade(call):
            async with aclosing(self._backend.stream(call, watch)) as events:
                async for event in events:
                    yield event
            return
        stages = await self._stages(call)
        made: dict[int, Item] = {}
        steps: dict[int, int] = {}
        timings, used = Timings(), 0.0
        versions: dict[str, str] = {}
        with self._stage(stages.first) as trace:
            call_of_first = replace(stages.first, trace=trace)
            async with aclosing(self._backend.stream(call_of_first, watch)) as events:
                async for event in events:
                    if isinstance(event, RowFinished):
                        made[event.row] = event.item
                    elif isinstance(event, CallFinished):
                        timings, used = event.timings, event.device_seconds
                        versions |= event.versions
                    else:
                        if isinstance(event, Progress):
                            steps[event.row] = event.steps
                        yield event
        ends: list[Timings] = []
        with self._stage(stages.first, stages.second) as trace:
            calls = {row: stages.enlarging(row, item, trace) for row, item in made.items()}
            async with aclosing(self._enlarging(calls)) as second:
                async for row, event in second:
                    if isinstance(event, CallFinished):
                        ends.append(event.timings)
                        versions |= event.versions
                        used += event.device_seconds
                    elif isinstance(event, RowFinished):
                        yield RowFinished(row, _enlarged(made[row], event.item))
                    elif isinstance(event, Progress):
                        before = steps.get(row, 0)
                        yield replace(
                            event, row=row, step=before + event.step, steps=before + event.steps
                        )
        slowest = _slowest(ends)
        yield CallFinished(
            model=call.model,
            timings=_sum(timings, slowest),
            device_seconds=used,
            versions=versions,
            stages=(
                StageTimings(stages.first.model, timings),
                StageTimings(stages.second, slowest),
            ),
        )

    @contextmanager
    def _stage(self, call: Call, enlarger: str | None = None) -> Iterator[Carrier]:
        """What the calls of a stage are to name as their place in the trace."""
        name = "atelier.cascade.generate" if enlarger is None else "atelier.cascade.enlarge"
        attributes = {"atelier.model": enlarger or call.model}
        with child_span(self._tracer, name, call.trace, attributes) as span:
            yield carrier_of(span)

    async def _enlarging(self, calls: dict[int, Call]) -> AsyncGenerator[tuple[int, Event], None]:
        """The events of several calls as they come, each with its row; the first error ends all."""
        events: asyncio.Queue[tuple[int, Event] | BaseException | None] = asyncio.Queue()

        async def carry(row: int, call: Call) -> None:
            async with aclosing(self._backend.stream(call, Watch())) as found:
                async for event in found:
                    if not isinstance(event, Queued):
                        events.put_nowait((row, event))

        async def carry_all() -> None:
            try:
                await _all(carry(row, call) for row, call in calls.items())
                events.put_nowait(None)
            except BaseException as error:
                events.put_nowait(error)
                raise

        work = asyncio.create_task(carry_all())
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()

    async def _stages(self, call: Call) -> _Stages:
        """The calls behind a cascade, checked before any work is done.

        Raises:
            InvalidParameter: the field is no name, or the images would have no size that the
                second model takes.
            ModelNotFound: there is no such second model.
            UnsupportedTask: it does not enlarge.
        """
        name = call.parameters[FIELD]
        if not isinstance(name, str):
            raise InvalidParameter(
                f"{FIELD} is the name of a model that enlarges what {call.model} generates",
                param=FIELD,
            )
        first = await self._backend.model(call.model)
        try:
            second = await self._backend.model(name)
        except ModelNotFound as error:
            raise ModelNotFound(error.message, param=FIELD) from error
        if OPERATION not in second.operations:
            seen = [info for info in await self._backend.models() if call.sees(info.id)]
            able = [info.id for info in seen if OPERATION in info.operations]
            raise UnsupportedTask(
                f"{name} does not offer {OPERATION}, which a {FIELD} ends with; of these models: "
                f"{', '.join(able) or 'none'}",
                param=FIELD,
            )
        least, most = second.limits.get("input_sides", (1, max(first.resolution)))
        if min(first.resolution) < least or max(first.resolution) > most:
            height, width = first.resolution
            raise InvalidParameter(
                f"{name} enlarges images with sides from {least} to {most} pixels, and "
                f"{call.model} makes them {width}x{height}",
                param=FIELD,
            )
        parameters: dict[str, Any] = {k: v for k, v in call.parameters.items() if k != FIELD}
        ends = None if call.deadline is None else time.monotonic() + call.deadline
        base = replace(call, parameters=parameters, encoding=Encoding())
        return _Stages(base, name, call.encoding, ends)


def _is_cascade(call: Call) -> bool:
    return call.task is Task.GENERATE and FIELD in call.parameters


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all coroutines give; the first that fails ends the others before it is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _enlarged(first: Item, second: Item) -> Item:
    return Item({**second.values, **first.values}, second.image)


def _slowest(timings: Sequence[Timings]) -> Timings:
    return Timings(**{f.name: max(getattr(t, f.name) for t in timings) for f in fields(Timings)})


def _sum(first: Timings, second: Timings) -> Timings:
    return Timings(
        **{f.name: getattr(first, f.name) + getattr(second, f.name) for f in fields(Timings)}
    )
