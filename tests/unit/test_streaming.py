"""What is told of a call under way, to whoever watches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from services.core.engine import Engine
from services.core.errors import EngineFailure, InvalidParameter, QueueFull
from services.core.images import ImageLimits, decode, read_header
from services.core.job import (
    Call,
    CallFinished,
    Encoding,
    Event,
    Item,
    Job,
    Preview,
    Progress,
    Queued,
    RowFinished,
    Timings,
    Watch,
)
from services.core.network import OpenedModel
from services.core.parameters import Parameters
from services.core.trajectory import Trajectory, Workload
from services.families import discover
from services.runtime.loop import Loop
from services.serving import wire
from services.serving.in_process import InProcessBackend, PoolSettings
from services.serving.mailbox import PREVIEWS_KEPT, Mailbox
from tests.engines import call, opened
from tests.scripted import Gate, Hook, ScriptedEngine, Work, scripted, until, work
from tests.tiny_models import Shelf, one_of_each

T = TypeVar("T")


SILENT = Watch()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def everything(events: AsyncGenerator[Event, None]) -> list[Event]:
    return [event async for event in events]


def of(kind: type[T], events: Sequence[Event]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


@pytest.fixture
def start() -> Iterator[Callable[..., InProcessBackend]]:
    started: list[InProcessBackend] = []

    def build(
        shelf: Shelf | None = None,
        families: dict[str, type[Engine]] | None = None,
        **settings: Any,
    ) -> InProcessBackend:
        pool = PoolSettings(**{"drain_seconds": 0.0, **settings})
        backend = InProcessBackend(shelf or one_of_each(), families or discover(), settings=pool)
        started.append(backend)
        return backend

    yield build
    for backend in started:
        backend.close()


class Several(Work):
    """Rows that are alike."""

    n: int = 1

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        return self.n


def hooked(start: Callable[..., InProcessBackend], hook: Hook, **settings: Any) -> InProcessBackend:
    """A backend of one scripted model, which comes to the hook before each evaluation."""

    class Hooked(ScriptedEngine):
        def __init__(self, model: OpenedModel, *_: Any) -> None:
            super().__init__(name=model.id)

        def operations(self) -> Mapping[str, type[Parameters]]:
            return {"generate": Several}

        def workload(self, job: Job[Any]) -> Workload:
            """No two rows of a call are decoded together."""
            return replace(super().workload(job), decode=f"row {job.index}")

        def rehearsal(self) -> Sequence[Any]:
            return ()

        def step(self, batch: Sequence[Trajectory]) -> None:
            self.hook = hook
            super().step(batch)

    shelf = Shelf({"scripted": lambda: opened("scripted", {}, resolution=(4, 4), name="scripted")})
    return start(shelf, {"scripted": Hooked}, **settings)


def scripted_call(**parameters: Any) -> Call:
    return call("generate", model="scripted", **parameters)


@pytest.mark.parametrize("model", ["tiny-diffusion", "tiny-gan", "tiny-flow"])
def test_a_stream_ends_in_what_the_plain_answer_holds(start: Any, model: str) -> None:
    backend = start()
    wanted = call("generate", model=model, n=3, seed=5)
    answer = run(backend.run(wanted))
    events = run(everything(backend.stream(wanted, Watch(preview_every=1))))
    assert isinstance(events[0], Queued)
    assert events[0].rows == 3
    finished = of(RowFinished, events)
    assert sorted(event.row for event in finished) == [0, 1, 2]
    items = {event.row: event.item for event in finished}
    assert tuple(items[row] for row in range(3)) == answer.items
    assert isinstance(events[-1], CallFinished)
    assert events[-1].timings.decode > 0


def test_each_step_is_told_to_who_keeps_up(start: Any, gate: Gate) -> None:
    backend = hooked(start, gate)

    async def scenario() -> list[Progress]:
        told = []
        async with aclosing(backend.stream(scripted_call(steps=5), SILENT)) as events:
            assert isinstance(await anext(events), Queued)
            for _ in range(5):
                await asyncio.to_thread(gate.wait)
                gate.release()
                event = await anext(events)
                assert isinstance(event, Progress)
                told.append(event)
            assert [type(e) for e in [e async for e in events]] == [RowFinished, CallFinished]
        return told

    told = run(scenario())
    assert [(e.row, e.step, e.steps, e.sigma) for e in told] == [
        (0, step, 5, None) for step in range(1, 6)
    ]
    assert all(event.seconds_left >= 0 for event in told)


def test_the_noise_goes_down_to_none(start: Any) -> None:
    wanted = call("generate", model="tiny-diffusion", steps=20, sampler="ddim")
    told = of(Progress, run(everything(start().stream(wanted, SILENT))))
    levels = [event.sigma for event in told]
    assert levels == sorted(levels, reverse=True)
    assert (told[-1].step, told[-1].steps, told[-1].sigma) == (20, 20, 0.0)


def test_a_row_is_handed_out_while_others_are_still_under_way(start: Any) -> None:
    gate = Gate("decode")
    backend = hooked(start, gate)

    async def scenario() -> None:
        async with aclosing(backend.stream(scripted_call(n=2), SILENT)) as events:
            await anext(events)
            await asyncio.to_thread(gate.wait)
            await asyncio.to_thread(gate.advance)
            while not isinstance(event := await anext(events), RowFinished):
                pass
            assert backend.loop.status().trajectories == 1
            gate.open()
            rest = [e async for e in events]
            assert {event.row, *(e.row for e in of(RowFinished, rest))} == {0, 1}

    run(scenario())


def test_who_does_not_read_costs_no_memory_and_stalls_nobody(start: Any) -> None:
    backend = start()
    long = call("generate", model="tiny-diffusion", n=2, steps=200, sampler="ddim")
    other = call("generate", model="tiny-diffusion", steps=4)

    async def scenario() -> list[Event]:
        events = backend.stream(long, Watch(preview_every=1))
        first = await anext(events)
        await backend.run(other)
        await asyncio.to_thread(until, lambda: backend.loop.status().trajectories == 0)
        return [first, *[event async for event in events]]

    events = run(scenario())
    progress, previews = of(Progress, events), of(Preview, events)
    # One batch may have been on its way to the reader when it stopped reading.
    assert len(progress) <= 2 * 2
    assert len(previews) <= 2 * 2 * PREVIEWS_KEPT
    assert {(e.row, e.step) for e in progress} >= {(0, 200), (1, 200)}
    assert len(of(RowFinished, events)) == 2


def test_closing_a_stream_frees_its_rows_before_the_next_step(start: Any, gate: Gate) -> None:
    backend = hooked(start, gate)

    async def scenario() -> None:
        others = asyncio.all_tasks()
        events = backend.stream(scripted_call(steps=500), SILENT)
        await anext(events)
        await asyncio.to_thread(gate.wait)
        await events.aclose()
        gate.open()
        await asyncio.to_thread(until, lambda: backend.loop.status().trajectories == 0)
        assert backend.loop.status().evaluations["scripted/step"] == 1
        assert asyncio.all_tasks() == others

    run(scenario())


def test_refusals_come_before_the_first_event(start: Any, gate: Gate) -> None:
    backend = hooked(start, gate, queue_seconds=0.01)

    async def scenario() -> None:
        with pytest.raises(InvalidParameter):
            await anext(backend.stream(scripted_call(steps=-1), SILENT))
        async with aclosing(backend.stream(scripted_call(steps=9), SILENT)) as events:
            await anext(events)
            with pytest.raises(QueueFull):
                await anext(backend.stream(scripted_call(steps=9), SILENT))

    run(scenario())


def test_a_row_that_fails_ends_the_stream_after_what_was_told(start: Any) -> None:
    steps = 0

    def hook(stage: str, ids: tuple[str, ...]) -> None:
        nonlocal steps
        steps += stage == "step"
        if steps > 3:
            raise RuntimeError("broken")

    backend = hooked(start, hook)

    told: list[Event] = []

    async def scenario() -> None:
        async for event in backend.stream(scripted_call(steps=9), SILENT):
            told.append(event)

    with pytest.raises(EngineFailure):
        run(scenario())
    assert isinstance(told[0], Queued)
    assert of(Progress, told)[-1].step == 3
    assert backend.loop.status().trajectories == 0


def test_a_watcher_that_fails_harms_no_row(loop: Loop) -> None:
    def broken(ticket: Any) -> None:
        raise RuntimeError("broken")

    model = scripted(ScriptedEngine())
    (watched,) = loop.submit(model, [work("a", steps=3)], broken)
    (alone,) = loop.submit(model, [work("b", steps=3)])
    assert watched.future.result(20).result.pixels is not None
    assert alone.future.result(20).result.pixels is not None


def test_what_came_meanwhile_is_read_in_order_and_the_latest_of_each_row() -> None:
    async def scenario() -> list[Any]:
        mailbox = Mailbox()
        mailbox.put(Progress(0, 1, 3, None, 0.0))
        mailbox.put(Progress(1, 1, 3, None, 0.0))
        mailbox.put(Preview(0, 1, 3, 0, b""))
        mailbox.put(Queued(2, 0, 0.0))
        mailbox.put(Progress(0, 2, 3, None, 0.0))
        mailbox.put(RowFinished(0, Item()))
        mailbox.put(CallFinished("m", Timings()))
        mailbox.fail(EngineFailure("read only where there was no end"))
        return [batch async for batch in mailbox.batches()]

    (batch,) = run(scenario())
    kinds = [(type(event), getattr(event, "row", None)) for event in batch]
    assert kinds == [
        (Queued, None),
        (Preview, 0),
        (Progress, 1),
        (Progress, 0),
        (RowFinished, 0),
        (CallFinished, None),
    ]
    assert batch[3].step == 2


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_previews_come_in_the_calls_format_and_the_images_size(start: Any, kind: Any) -> None:
    plain = call("generate", model="tiny-diffusion", steps=8, sampler="euler")
    wanted = replace(plain, encoding=Encoding(kind))
    previews = of(Preview, run(everything(start().stream(wanted, Watch(previews=3)))))
    assert [(p.index, p.step) for p in previews] == [(0, 2), (1, 4), (2, 6)]
    for preview in previews:
        header = read_header(preview.image, ImageLimits())
        assert (header.format, header.width, header.height) == (kind.upper(), 8, 8)


@pytest.mark.parametrize(
    "event",
    [
        Queued(2, 3, 0.5),
        Progress(1, 2, 3, None, 0.25),
        Preview(0, 1, 4, 0, b"bytes"),
        RowFinished(0, Item({"seed": 3}, b"bytes")),
        CallFinished("m", Timings(step=0.5)),
    ],
)
def test_events_cross_processes_unchanged(event: Event) -> None:
    assert wire.unpack_event(wire.pack_event(event)) == event
    watch = Watch(preview_every=2, previews=1)
    assert wire.unpack_watch(wire.pack_watch(watch)) == watch


def test_previews_are_small_enough_to_be_looked_at(start: Any) -> None:
    wanted = call("generate", model="tiny-diffusion", steps=4, sampler="euler")
    (preview, *_) = of(Preview, run(everything(start().stream(wanted, Watch(preview_every=1)))))
    assert decode(preview.image, (8, 8), 3, ImageLimits()).shape == (3, 8, 8)
