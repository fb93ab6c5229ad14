"""The backend in this process: from a call to its answer, and everything that can come between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest

from services.core.engine import Engine
from services.core.errors import (
    Canceled,
    DeadlineUnmeetable,
    EngineFailure,
    InvalidImage,
    InvalidParameter,
    ModelNotFound,
    QueueFull,
    Unavailable,
    UnsupportedTask,
)
from services.core.images import ImageLimits, decode, encode, read_header
from services.core.job import Call, Encoding, Job, Task
from services.core.network import OpenedModel
from services.core.trajectory import Trajectory
from services.families import discover
from services.serving.in_process import InProcessBackend, PoolSettings
from tests.engines import call, opened, some_pixels
from tests.scripted import Gate, Hook, ScriptedEngine, until
from tests.tiny_models import MODELS, Shelf, one_of_each, tiny_gan

T = TypeVar("T")
Backends = Callable[..., InProcessBackend]

GENERATORS = sorted(MODELS.keys() - {"super_resolution", "translation"})


@pytest.fixture
def start() -> Iterator[Backends]:
    """Starts backends that are closed when the test is over."""
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


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def hooked(hook: Hook) -> type[Engine]:
    """A scripted family that stops at a hook once it is loaded."""

    class Hooked(ScriptedEngine):
        def __init__(self, model: OpenedModel, *_: Any) -> None:
            super().__init__(name=model.id)

        def rehearsal(self) -> Sequence[Job[Any]]:
            return ()

        def step(self, batch: Sequence[Trajectory]) -> None:
            self.hook = hook
            super().step(batch)

    return Hooked


def scripted_shelf() -> Shelf:
    return Shelf({"scripted": lambda: opened("scripted", {}, resolution=(4, 4), name="scripted")})


def test_a_call_is_answered_with_encoded_images_values_and_timings(start: Backends) -> None:
    wanted = call("generate", model="tiny-gan", n=3, seed=5, label="red")
    answer = run(start().run(wanted))
    assert answer.model == "tiny-gan"
    assert [item.values["seed"] for item in answer.items] == [5, 6, 7]
    assert all(item.values["label"] == "red" for item in answer.items)
    assert all(item.image is not None for item in answer.items)
    assert answer.timings.decode > 0
    assert answer.timings.encode > 0


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_images_come_in_the_format_that_was_asked_for(start: Backends, kind: Any) -> None:
    wanted = replace(call("generate", model="tiny-gan"), encoding=Encoding(kind, 80))
    (item,) = run(start().run(wanted)).items
    assert item.image is not None
    assert read_header(item.image, ImageLimits()).format == kind.upper()


def test_values_come_without_an_image(start: Backends) -> None:
    images = [some_pixels(1, 4, 4, seed=i) for i in range(3)]
    answer = run(start().run(call("likelihood", model="tiny-flow", images=images)))
    assert [item.image for item in answer.items] == [None] * 3
    assert all(item.values["kind"] == "exact" for item in answer.items)


def test_many_calls_at_once_are_answered_each_with_its_own(start: Backends) -> None:
    backend = start()
    calls = [call("generate", model=f"tiny-{f}", seed=s) for s in range(8) for f in GENERATORS]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(backend.run(one) for one in calls))

    for one, answer in zip(calls, run(all_at_once()), strict=True):
        assert answer.model == one.model
        assert answer.items[0].values["seed"] == one.parameters["seed"]


def test_an_unknown_model_is_refused_with_near_names(start: Backends) -> None:
    with pytest.raises(ModelNotFound):
        run(start().run(call("generate", model="tiny-gam")))
    with pytest.raises(ModelNotFound, match="did you mean tiny-gan"):
        run(start(models=("tiny-gan",)).run(call("generate", model="tiny-gam")))


def test_a_refusal_names_the_models_that_can(start: Backends) -> None:
    image = some_pixels(3, 8, 8)
    with pytest.raises(UnsupportedTask, match=r"tiny-diffusion, tiny-flow, tiny-vae") as caught:
        run(start().run(call("likelihood", model="tiny-gan", images=[image])))
    assert "tiny-gan is a GAN" in caught.value.message


def test_bad_parameters_and_images_are_refused_before_anything_is_queued(start: Backends) -> None:
    backend = start()
    with pytest.raises(InvalidParameter):
        run(backend.run(call("generate", model="tiny-gan", n=1000)))
    broken = replace(call("likelihood", model="tiny-flow"), images=(b"\x89PNG\r\n\x1a\nnothing",))
    with pytest.raises(InvalidImage):
        run(backend.run(broken))
    large = np.full((1, 400, 400), 9, np.uint8)
    answer = run(backend.run(call("likelihood", model="tiny-flow", images=[large])))
    assert answer.items[0].values["kind"] == "exact"
    assert backend.loop.status().trajectories == 0


def test_canceling_the_task_frees_its_rows_within_one_step(start: Backends) -> None:
    gate = Gate()
    backend = start(scripted_shelf(), {"scripted": hooked(gate)})

    async def scenario() -> None:
        leaving = asyncio.create_task(backend.run(call("generate", model="scripted", steps=1000)))
        staying = asyncio.create_task(backend.run(call("generate", model="scripted", steps=3)))
        await asyncio.to_thread(until, lambda: backend.loop.status().trajectories == 2)
        await asyncio.to_thread(gate.wait)
        await asyncio.to_thread(gate.advance)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        before = backend.loop.status().evaluations["scripted/step"]
        gate.release()
        await asyncio.to_thread(until, lambda: backend.loop.status().trajectories == 1)
        assert backend.loop.status().evaluations["scripted/step"] == before + 1
        gate.open()
        assert (await staying).items[0].image is not None

    run(scenario())
    until(lambda: backend.loop.status().trajectories == 0)
    assert backend.loop.status().queue_seconds == 0


def test_one_failing_row_ends_its_call_and_withdraws_the_other_rows(start: Backends) -> None:
    def fail(stage: str, ids: tuple[str, ...]) -> None:
        if any(name.startswith("bad") for name in ids):
            raise RuntimeError("as told")

    backend = start(scripted_shelf(), {"scripted": hooked(fail)})
    good = call("generate", model="scripted", steps=30, seed=4)
    bad = replace(call("generate", model="scripted", steps=30), id="bad")

    async def both() -> Sequence[Any]:
        return await asyncio.gather(backend.run(good), backend.run(bad), return_exceptions=True)

    answer, error = run(both())
    assert type(error) is EngineFailure
    again = run(backend.run(good))
    assert (again.model, again.items) == (answer.model, answer.items)
    until(lambda: backend.loop.status().trajectories == 0)


def test_a_full_queue_answers_at_once_while_work_goes_on(start: Backends) -> None:
    gate = Gate()
    backend = start(scripted_shelf(), {"scripted": hooked(gate)}, queue_seconds=0.5)

    async def scenario() -> None:
        working = asyncio.create_task(backend.run(call("generate", model="scripted", steps=40)))
        await asyncio.to_thread(gate.wait)
        with pytest.raises(QueueFull) as caught:  # while the gate holds the work up
            await backend.run(call("generate", model="scripted", steps=40))
        assert caught.value.retry_after is not None
        gate.open()
        await working
        await backend.run(call("generate", model="scripted", steps=2))

    run(scenario())


def test_a_deadline_counts_from_the_calls_arrival(start: Backends) -> None:
    backend = start(scripted_shelf(), {"scripted": hooked(lambda stage, ids: None)})
    relaxed = call("generate", model="scripted", steps=5, deadline=60.0)
    assert run(backend.run(relaxed)).items
    with pytest.raises(DeadlineUnmeetable):
        run(backend.run(call("generate", model="scripted", steps=1000, deadline=0.5)))


def test_what_is_used_most_recently_stays_loaded(start: Backends) -> None:
    shelf = Shelf({f"gan-{i}": lambda i=i: replace(tiny_gan(), id=f"gan-{i}") for i in range(3)})
    backend = start(shelf, max_loaded=2)
    for name in ("gan-0", "gan-1", "gan-0", "gan-2"):
        run(backend.run(call("generate", model=name)))
    assert backend.registry.loaded() == ["gan-0", "gan-2"]


def test_it_is_ready_once_what_it_was_told_to_preload_is_loaded(start: Backends) -> None:
    backend = start(preload=("tiny-gan", "tiny-vae"))
    assert not run(backend.ready())
    backend.preload()
    assert run(backend.ready())
    assert backend.registry.loaded() == ["tiny-gan", "tiny-vae"]
    everything = start(preload=("*",))
    everything.preload()
    assert everything.registry.loaded() == sorted(f"tiny-{family}" for family in MODELS)
    assert run(start().ready())


def test_a_broken_model_is_not_listed_and_spoils_no_list(start: Backends) -> None:
    shelf = one_of_each()
    shelf.models["broken"] = lambda: replace(tiny_gan(), id="broken", options={"labelz": 1})
    shelf.versions["broken"] = "1"
    names = [info.id for info in run(start(shelf).models())]
    assert names == sorted(f"tiny-{family}" for family in MODELS)


def test_a_list_says_what_is_loaded(start: Backends) -> None:
    backend = start()
    run(backend.run(call("generate", model="tiny-gan")))
    loaded = {info.id: info.loaded for info in run(backend.models())}
    assert loaded.pop("tiny-gan")
    assert not any(loaded.values())


def test_status_shows_the_work_and_a_wedged_engine_makes_it_unhealthy(start: Backends) -> None:
    gate = Gate()
    backend = start(scripted_shelf(), {"scripted": hooked(gate)}, stall_seconds=0.8, name="pool")

    async def scenario() -> None:
        working = asyncio.create_task(backend.run(call("generate", model="scripted", steps=3)))
        await asyncio.to_thread(gate.wait)
        (status,) = await backend.status()
        assert (status.name, status.loaded) == ("pool", ("scripted",))
        assert status.trajectories == 1
        assert status.queue_seconds > 0
        await asyncio.to_thread(until, lambda: not backend.healthy())
        assert not await backend.ready()
        gate.open()
        await working
        await asyncio.to_thread(until, backend.healthy)

    run(scenario())


def test_closing_finishes_what_was_accepted_and_refuses_what_comes_after(start: Backends) -> None:
    gate = Gate()
    backend = start(scripted_shelf(), {"scripted": hooked(gate)}, drain_seconds=20.0)

    async def scenario() -> None:
        accepted = asyncio.create_task(backend.run(call("generate", model="scripted", steps=3)))
        await asyncio.to_thread(gate.wait)
        closing = asyncio.create_task(asyncio.to_thread(backend.close))
        await asyncio.sleep(0.2)
        with pytest.raises(Unavailable):
            await backend.run(call("generate", model="scripted"))
        gate.open()
        assert (await accepted).items[0].image is not None
        await closing

    run(scenario())
    assert not backend.healthy()


def test_closing_without_time_tells_those_who_wait(start: Backends) -> None:
    gate = Gate()
    backend = start(scripted_shelf(), {"scripted": hooked(gate)}, drain_seconds=0.0)

    async def scenario() -> None:
        accepted = asyncio.create_task(backend.run(call("generate", model="scripted", steps=900)))
        await asyncio.to_thread(gate.wait)
        closing = asyncio.create_task(asyncio.to_thread(backend.close))
        await asyncio.sleep(0.1)
        gate.open()
        with pytest.raises(Canceled):
            await accepted
        await closing

    run(scenario())


@pytest.mark.parametrize("where", ["images", "mask"])
@pytest.mark.parametrize(("side", "thread"), [(64, "MainThread"), (2000, "atelier-uploads")])
def test_many_pixels_are_decoded_off_the_event_loop_however_few_bytes_hold_them(
    start: Backends, side: int, thread: str, where: str
) -> None:
    seen: list[str] = []

    class Curious(ScriptedEngine):
        def __init__(self, model: OpenedModel, *_: Any) -> None:
            super().__init__(name=model.id)

        def jobs(self, call: Call, *, deadline: float | None = None) -> list[Job[Any]]:
            seen.append(threading.current_thread().name)
            return super().jobs(replace(call, images=(), mask=None), deadline=deadline)

    flat = encode(np.zeros((1, side, side), np.uint8), Encoding("webp"))
    assert len(flat) < 4096
    sent: dict[str, Any] = {where: (flat,) if where == "images" else flat}
    backend = start(scripted_shelf(), {"scripted": Curious})
    run(backend.run(Call("a", "scripted", Task.GENERATE, **sent)))
    assert seen[0].startswith(thread)


def test_large_images_are_decoded_and_encoded_like_small_ones(start: Backends) -> None:
    """Beyond a size they go through a thread; the pixels must not care."""
    side = 200

    def build() -> OpenedModel:
        model = MODELS["flow"]()
        return replace(model, id="large", resolution=(4, 4))

    backend = start(Shelf({"large": build}))
    small = some_pixels(1, 4, 4, seed=2)
    large = np.ascontiguousarray(small.repeat(side // 4, 1).repeat(side // 4, 2))
    answers = [
        run(backend.run(call("reconstruct", model="large", images=[image])))
        for image in (small, large)
    ]
    for answer in answers:
        assert answer.items[0].image is not None
        found = decode(answer.items[0].image, (4, 4), 1, ImageLimits())
        assert np.array_equal(found, small)
