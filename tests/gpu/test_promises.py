"""The service's promises on a CUDA device: ``python -m pytest tests/gpu``."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loadtests.gpu_models import TINY, TINY_SIZED, Components, our_model
from model_store.manifest import TorchOptions
from model_store.networks.batch_buckets import BatchBuckets
from model_store.networks.graph import GraphTensor
from model_store.networks.torch_graph import TorchGraph
from model_store.networks.upload import upload
from services.core.errors import Canceled, OutOfDeviceMemory
from services.core.images import ImageLimits, Pixels
from services.core.job import Call, Job, Task
from services.core.trajectory import Trajectory
from services.families import discover
from services.runtime.cost import measure
from services.runtime.loop import Loop
from services.runtime.registry import LoadedModel
from tests.scripted import PATIENCE, Gate, ScriptedEngine, scripted, until, work
from tests.tiny_models import seeded

DETERMINISTIC: Mapping[str, Mapping[str, Any]] = {
    "eager": {},
    "graphs": {"cuda_graphs": True},
    "half, channels last": {"dtype": "bfloat16", "channels_last": True, "cuda_graphs": True},
}
MIXED: Sequence[Mapping[str, Any]] = (
    {"steps": 3, "sampler": "euler", "guidance_scale": 7.5},
    {"steps": 4, "sampler": "dpmpp_2m", "guidance_scale": 1.0},
    {"steps": 3, "sampler": "heun", "guidance_scale": 3.0},
    {"steps": 5, "sampler": "ddim", "guidance_scale": 5.0, "prompt": "a red cat"},
)


def model(cuda: torch.device, size: Any = TINY, **options: Any) -> LoadedModel:
    """A tiny model of diffusers' components, loaded as the service loads one."""
    components = Components(size, cuda, torch.float32)
    opened = our_model(components, TorchOptions(**options))
    engine = discover()["diffusion"](opened, cuda, ImageLimits())
    engine.setup()
    return LoadedModel(engine, "1", costs=measure(engine, engine.rehearsal(), Lock()), ready=True)


def job(loaded: LoadedModel, number: int) -> Job[Any]:
    parameters = {**MIXED[number % len(MIXED)], "seed": number}
    return loaded.engine.jobs(Call(str(number), loaded.id, Task.GENERATE, parameters))[0]


def images(loop: Loop, loaded: LoadedModel, numbers: Sequence[int]) -> list[Pixels]:
    tickets = loop.submit(loaded, [job(loaded, number) for number in numbers])
    found = [ticket.future.result(PATIENCE).result.pixels for ticket in tickets]
    return [pixels for pixels in found if pixels is not None]


@pytest.fixture
def running() -> Any:
    loop = Loop(Lock())
    yield loop
    loop.close()


@pytest.mark.parametrize("size", [TINY, TINY_SIZED], ids=lambda size: size.name)
@pytest.mark.parametrize("options", DETERMINISTIC.values(), ids=list(DETERMINISTIC))
def test_the_same_request_is_the_same_image_in_any_mix(
    cuda: torch.device, running: Loop, size: Any, options: Mapping[str, Any]
) -> None:
    loaded = model(cuda, size, **options)
    alone = [images(running, loaded, [number])[0] for number in range(12)]
    draw = random.Random(3)
    for count in (2, 5, 12):
        numbers = draw.sample(range(12), count)
        for number, found in zip(numbers, images(running, loaded, numbers), strict=True):
            assert np.array_equal(found, alone[number])


def test_without_determinism_images_are_within_a_level(cuda: torch.device, running: Loop) -> None:
    loaded = model(cuda, cuda_graphs=True, deterministic=False)
    alone = [images(running, loaded, [number])[0] for number in range(8)]
    for found, expected in zip(images(running, loaded, range(8)), alone, strict=True):
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_graphs_are_bitwise_what_they_recorded(cuda: torch.device) -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 3))
    )
    net = net.to(cuda)

    def function(feeds: Mapping[str, Tensor]) -> list[Tensor]:
        return [net(feeds["x"])]

    with torch.inference_mode():
        eager, recorded = (
            BatchBuckets(function, cuda, (2, 4), capture=capture) for capture in (False, True)
        )
        for rows in (1, 2, 3, 4, 7, 2, 1):
            x = torch.randn(rows, 4, 8, 8, device=cuda)
            (expected,), (found,) = eager.run({"x": x}), recorded.run({"x": x})
            assert torch.equal(found, expected)


def test_compiled_and_recorded_is_near_to_eager(cuda: torch.device) -> None:
    net = seeded(lambda: Two(8))
    inputs = [GraphTensor("x", (None, 8), torch.float32)]
    options = TorchOptions(compile=True, cuda_graphs=True, batch_buckets=[4])
    graph = TorchGraph(net, name="denoiser", inputs=inputs, device=cuda, threads=1, options=options)
    x = torch.randn(6, 8, device=cuda)
    found = graph.run({"x": x})[0]
    torch.testing.assert_close(found, net(x), rtol=1e-3, atol=1e-3)


class Two(nn.Module):
    """Two layers."""

    outputs = ("prediction",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_weights_arrive_whole_through_page_locked_memory(cuda: torch.device) -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200)))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    upload(module, cuda, staging_bytes=1000)
    for name, value in module.state_dict().items():
        assert value.device == cuda
        assert torch.equal(value.cpu(), before[name])


class OnDevice(ScriptedEngine):
    """A scripted engine whose steps take device memory by the row."""

    def __init__(self, cuda: torch.device, row_bytes: int, hook: Callable[..., None]) -> None:
        super().__init__(hook)
        self._there, self._row_bytes = cuda, row_bytes
        self.fitted: list[int] = []

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Take the memory, and let go of it."""
        room = torch.empty(len(batch) * self._row_bytes, dtype=torch.uint8, device=self._there)
        del room
        self.fitted.append(len(batch))
        super().step(batch)


def test_a_batch_that_does_not_fit_is_split_and_everyone_gets_an_image(cuda: torch.device) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(cuda)
    gate = Gate("prepare")
    engine = OnDevice(cuda, free // 3, gate)
    loop = Loop(Lock())
    tickets = loop.submit(scripted(engine), [work(f"row-{i}", steps=2) for i in range(8)])
    gate.wait()
    gate.open()
    for ticket in tickets:
        assert ticket.future.result(PATIENCE).result.pixels is not None
    loop.close()
    assert max(engine.fitted) <= 2
    torch.cuda.empty_cache()


def test_a_row_that_fits_on_no_device_is_told_so(cuda: torch.device) -> None:
    _, total = torch.cuda.mem_get_info(cuda)
    loop = Loop(Lock())
    engine = OnDevice(cuda, 2 * total, lambda stage, ids: None)
    (ticket,) = loop.submit(scripted(engine), [work("huge", steps=1)])
    assert isinstance(ticket.future.exception(PATIENCE), OutOfDeviceMemory)
    loop.close()


def test_a_withdrawn_row_takes_part_in_no_further_step(cuda: torch.device) -> None:
    gate = Gate("step")
    engine = OnDevice(cuda, 1024, gate)
    loop = Loop(Lock())
    tickets = loop.submit(scripted(engine), [work(name, steps=50) for name in ("stays", "goes")])
    gate.wait()
    loop.withdraw([tickets[1]])
    gate.advance()
    assert set(engine.stages("step")[-1]) == {"stays"}
    gate.open()
    assert isinstance(tickets[1].future.exception(PATIENCE), Canceled)
    assert tickets[0].future.result(PATIENCE).result.pixels is not None
    until(lambda: loop.status().trajectories == 0)
    loop.close()
