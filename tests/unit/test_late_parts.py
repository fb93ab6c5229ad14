"""What few requests need is opened when one first does, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.core.errors import InvalidNetwork
from services.core.images import ImageLimits
from services.core.job import Call
from services.core.network import DifferentiableNetwork, OpenedModel
from services.families import discover
from services.runtime import cost
from services.runtime.cost import Costs
from services.serving.in_process import InProcessBackend, PoolSettings
from tests.differentiable import with_gradients
from tests.engines import CPU, ask, call, ready, some_pixels
from tests.tiny_models import Shelf, tiny_diffusion

PATIENCE = 60.0
NAME = "tiny-diffusion"
GUESS = Costs().curve("step", "nothing").points

Backends = Callable[[OpenedModel], InProcessBackend]


@pytest.fixture
def serve() -> Iterator[Backends]:
    """Serves one model."""
    started: list[InProcessBackend] = []

    def build(model: OpenedModel) -> InProcessBackend:
        settings = PoolSettings(drain_seconds=0.0)
        backend = InProcessBackend(Shelf({NAME: lambda: model}), discover(), settings=settings)
        started.append(backend)
        return backend

    yield build
    for backend in started:
        backend.close()


def opened_by(model: OpenedModel, opening: Callable[[], None]) -> OpenedModel:
    """A model whose gradients are opened as the test says."""

    def open_now() -> DifferentiableNetwork:
        opening()
        return model.differentiable("denoiser")

    return replace(model, gradients={"denoiser": open_now})


def judging(**parameters: Any) -> Call:
    what = {"method": "ode", "probes": 2, **parameters}
    return call("likelihood", model=NAME, images=[some_pixels(3, 8, 8)], **what)


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, PATIENCE))


def test_while_gradients_are_opened_others_go_on(serve: Backends) -> None:
    begun, go_on, threads = threading.Event(), threading.Event(), []

    def opening() -> None:
        threads.append(threading.current_thread().name)
        begun.set()
        assert go_on.wait(PATIENCE)

    backend = serve(opened_by(with_gradients(tiny_diffusion()), opening))

    async def both() -> Any:
        judged = asyncio.ensure_future(backend.run(judging(steps=3)))
        again = asyncio.ensure_future(backend.run(judging(steps=3)))
        await asyncio.to_thread(begun.wait, PATIENCE)
        for seed in range(3):
            await backend.run(call("generate", model=NAME, steps=4, seed=seed))
        assert not judged.done()
        go_on.set()
        return await asyncio.gather(judged, again)

    first, second = run(both())
    assert first.items == second.items
    assert len(threads) == 1, "it is opened once"
    assert threads[0] != "atelier-loop"
    run(backend.run(judging(steps=5)))
    assert len(threads) == 1


@pytest.mark.parametrize(
    ("parameters", "key"), [({"steps": 3}, "ode"), ({"solver": "dopri5"}, "ode_adaptive")]
)
def test_the_first_of_its_kind_is_admitted_by_a_measured_cost(
    serve: Backends, parameters: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "MEASURING_SECONDS", 0.0)  # one size will do
    backend = serve(with_gradients(tiny_diffusion()))
    model = backend.registry.load(NAME)
    assert model.costs.curve("decode", "bound").points != GUESS
    seen: list[Any] = []
    submit = backend.loop.submit

    def noted(*args: Any, **options: Any) -> Any:
        seen.append((model.costs.curve("step", key).points, model.costs.curve("decode", "ode")))
        return submit(*args, **options)

    backend.loop.submit = noted  # type: ignore[method-assign]
    run(backend.run(judging(**parameters)))
    (step, decode), *_ = seen
    assert step != GUESS
    assert decode.points != GUESS


def test_what_cannot_be_opened_refuses_its_own_request_and_no_other(serve: Backends) -> None:
    def opening() -> None:
        raise InvalidNetwork("the gradients are broken")

    backend = serve(opened_by(with_gradients(tiny_diffusion()), opening))
    for _ in range(2):
        with pytest.raises(InvalidNetwork, match="the gradients are broken"):
            run(backend.run(judging(steps=3)))
    assert run(backend.run(call("generate", model=NAME, steps=2))).items


def test_a_refused_request_opens_nothing(serve: Backends) -> None:
    openings: list[None] = []
    backend = serve(opened_by(with_gradients(tiny_diffusion()), lambda: openings.append(None)))
    with pytest.raises(Exception, match="probes"):
        run(backend.run(judging(probes=0)))
    run(backend.run(call("likelihood", model=NAME, images=[some_pixels(3, 8, 8)], steps=2)))
    assert not openings


def test_without_a_server_the_first_use_opens() -> None:
    openings: list[None] = []
    engine = ready(opened_by(with_gradients(tiny_diffusion()), lambda: openings.append(None)))
    image = np.zeros((3, 8, 8), np.uint8)
    for _ in range(2):
        ask(engine, "likelihood", images=[image], method="ode", steps=2, probes=1)
    assert len(openings) == 1


def test_the_device_is_held_for_each_evaluation_of_the_previews_fit() -> None:
    model, lock, held = tiny_diffusion(), threading.Lock(), []

    def watched(network: Any) -> Any:
        function = network._function

        def noted(**inputs: Any) -> Any:
            held.append(lock.locked())
            return function(**inputs)

        network._function = noted
        return network

    for network in model.networks.values():
        watched(network)
    engine = discover()["diffusion"](model, CPU, ImageLimits())
    engine.device_lock = lock
    engine.setup()
    assert held
    assert all(held)
    assert not lock.locked()
