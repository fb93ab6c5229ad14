"""Models and engines for tests, without a store and without a loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.images import ImageLimits, Pixels, encode
from services.core.job import Call, Encoding, Job, Task
from services.core.network import Network, OpenedModel, TensorSpec
from services.core.trajectory import Result
from services.families import discover

CPU = torch.device("cpu")


Function = Callable[..., Mapping[str, Tensor]]


class RowByRow:
    """A function on tensors as a `Network`: rows are evaluated one by one, so they are independent.

    ``batches`` holds the number of rows of every evaluation.
    """

    def __init__(
        self, function: Function, inputs: Mapping[str, TensorSpec], outputs: Sequence[str]
    ) -> None:
        self.inputs = dict(inputs)
        self.outputs = {name: TensorSpec((), torch.float32) for name in outputs}
        self.batches: list[int] = []
        self._function = function

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        rows = len(next(iter(inputs.values())))
        self.batches.append(rows)
        with torch.no_grad():
            parts = [
                self._function(**{name: value[i : i + 1] for name, value in inputs.items()})
                for i in range(rows)
            ]
        return {name: torch.cat([part[name] for part in parts]) for name in self.outputs}


def floats(*shape: int | None) -> TensorSpec:
    """The specification of a float32 tensor."""
    return TensorSpec(shape, torch.float32)


def integers(*shape: int | None) -> TensorSpec:
    """The specification of an int64 tensor."""
    return TensorSpec(shape, torch.int64)


def opened(
    family: str,
    networks: Mapping[str, Network],
    *,
    resolution: tuple[int, int],
    channels: int = 1,
    pixel_range: tuple[float, float] = (-1.0, 1.0),
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> OpenedModel:
    """A model as a store would open it."""
    return OpenedModel(
        id=name or f"tiny-{family}",
        family=family,
        description=f"a tiny {family}",
        owned_by="tests",
        created=1,
        resolution=resolution,
        channels=channels,
        pixel_range=pixel_range,
        networks=networks,
        options=options or {},
        card={},
    )


def ready(model: OpenedModel) -> Engine:
    """The engine of a model, set up on the CPU; what its networks count begins after that."""
    engine = discover()[model.family](model, CPU, ImageLimits())
    engine.setup()
    for network in model.networks.values():
        if isinstance(network, RowByRow):
            network.batches.clear()
    return engine


def carry(engine: Engine, jobs: Sequence[Job[Any]]) -> list[Result]:
    """Run jobs to their results in one batch, without a loop."""
    batch = engine.prepare(jobs)
    while unfinished := [t for t in batch if not t.finished]:
        engine.step(unfinished)
    results = []
    for trajectory in batch:
        results += engine.decode([trajectory])
    return results


def call(
    name: str,
    *,
    model: str = "",
    images: Sequence[Pixels] = (),
    mask: Pixels | None = None,
    deadline: float | None = None,
    **parameters: Any,
) -> Call:
    """A call by the name of its task or operation; images are given as pixels."""
    is_task = name in list(Task)
    return Call(
        id=name,
        model=model,
        task=Task(name) if is_task else Task.EDIT,
        operation=None if is_task else name,
        parameters=parameters,
        images=tuple(encode(pixels, Encoding()) for pixels in images),
        mask=None if mask is None else encode(mask, Encoding()),
        deadline=deadline,
    )


def ask(engine: Engine, name: str, **what: Any) -> list[Result]:
    """The results of a call (see `call`) from an engine that has nothing else to do."""
    return carry(engine, engine.jobs(call(name, **what)))


def pixels_of(results: Sequence[Result]) -> list[Pixels]:
    """The images of results that are images."""
    found = [result.pixels for result in results if result.pixels is not None]
    if len(found) != len(results):
        raise ValueError("a result has no image")
    return found


def some_pixels(*shape: int, seed: int = 0) -> Pixels:
    """Random 8-bit pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def evaluated(engine: Engine, network: str = "denoiser") -> list[int]:
    """Rows of every evaluation of a network so far; grows as it is used."""
    found = engine.model.networks[network]
    if not isinstance(found, RowByRow):
        raise TypeError(f"'{network}' is no network of tests")
    return found.batches
