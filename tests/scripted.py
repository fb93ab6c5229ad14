"""An engine that does as it is told, and gates at which its evaluations wait."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.images import ImageLimits
from services.core.job import Job
from services.core.model import ModelInfo
from services.core.parameters import Parameters
from services.core.trajectory import Result, Trajectory, Workload
from services.runtime.cost import CostCurve, Costs
from services.runtime.registry import LoadedModel
from services.runtime.ticket import Ticket
from tests.engines import CPU, carry, opened, pixels_of

PATIENCE = 60.0
"""Seconds after which a test gives up on something that should have happened at once."""


class Work(Parameters):
    """What a scripted job asks for: steps of one row each, and a name by which to fail it."""

    steps: Annotated[int, Field(ge=0)] = 1
    rows_each: int = 1
    noisy: bool = True
    key: str = "shared"

    def rows(self, images: int) -> int:  # noqa: ARG002 - takes no images
        """One."""
        return 1


Stage = str


Hook = Callable[[Stage, tuple[str, ...]], None]


def _do_nothing(stage: Stage, ids: tuple[str, ...]) -> None:
    pass


class ScriptedEngine(Engine):
    """Real arithmetic with a hook before every evaluation, where a test waits or raises.

    A step is ``x <- 0.9 x + noise``; the result's pixels are the bits of the state. ``batches``
    holds the stage and the jobs of every evaluation that was begun.
    """

    family: ClassVar[str] = "scripted"

    def __init__(self, hook: Hook = _do_nothing, *, name: str = "scripted") -> None:
        super().__init__(opened("scripted", {}, resolution=(4, 4), name=name), CPU, ImageLimits())
        self.hook = hook
        self.batches: list[tuple[Stage, tuple[str, ...]]] = []

    def read_options(self) -> None:
        """None."""

    def setup(self) -> None:
        """Nothing to open."""

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(conditioning=("none",), likelihood="none")

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return {"generate": Work}

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        return f"a script cannot {name}"

    def workload(self, job: Job[Any]) -> Workload:
        """As the job says."""
        work = job.parameters
        return Workload("image", work.key, work.steps, work.rows_each)

    def rehearsal(self) -> Sequence[Job[Any]]:
        """One job."""
        return [Job("rehearsal", self.model.id, "generate", Work(steps=REHEARSED_STEPS))]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """First states from the jobs' seeds."""
        self._begin("prepare", [job.id for job in jobs])
        sources = [torch.Generator().manual_seed(job.seed) for job in jobs]
        return [
            Trajectory(
                job=job,
                workload=self.workload(job),
                x=torch.randn(4, generator=source),
                generator=source,
            )
            for job, source in zip(jobs, sources, strict=True)
        ]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Draw every row's noise, perhaps fail, and only then move on."""
        moved = [0.9 * t.x + (t.noise() if t.job.parameters.noisy else 0) for t in batch]
        self._begin("step", [t.job.id for t in batch])
        for trajectory, x in zip(batch, moved, strict=True):
            trajectory.commit(x)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """The bits of each state."""
        self._begin("decode", [t.job.id for t in batch])
        return [Result(t.x.numpy().view(np.uint8).reshape(1, 4, 4)) for t in batch]

    def stages(self, stage: Stage) -> list[tuple[str, ...]]:
        """The jobs of every evaluation of a stage."""
        return [ids for name, ids in self.batches if name == stage]

    def _begin(self, stage: Stage, ids: Sequence[str]) -> None:
        self.batches.append((stage, tuple(ids)))
        self.hook(stage, tuple(ids))


def scripted(
    engine: ScriptedEngine,
    *,
    seconds: float = 0.001,
    knee: int = 8,
    keys: Sequence[str] = ("shared",),
) -> LoadedModel:
    """A scripted engine whose evaluations cost ``seconds`` for any number of rows up to a knee."""
    points = {1: seconds, knee: seconds} if knee > 1 else {1: seconds, 2: 2 * seconds}
    curves: dict[tuple[str, Hashable], CostCurve] = {
        ("step", key): CostCurve(points) for key in keys
    }
    curves["decode", "image"] = CostCurve(points)
    return LoadedModel(engine, "1", costs=Costs(curves), ready=True)


def work(
    name: str, *, deadline: float | None = None, seed: int | None = None, **what: Any
) -> Job[Any]:
    """A scripted job; its seed follows from its name unless it is given."""
    if seed is None:
        seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    return Job(name, "scripted", "generate", Work(**what), seed=seed, deadline=deadline)


class Gate:
    """A hook that holds evaluations of one stage until the test lets them go, one at a time."""

    def __init__(self, stage: Stage = "step") -> None:
        self._stage = stage
        self._arrived = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self, stage: Stage, ids: tuple[str, ...]) -> None:  # noqa: ARG002 - a hook
        """Wait at the gate."""
        if stage != self._stage or self._opened.is_set():
            return
        self._arrived.release()
        if not self._go.acquire(timeout=PATIENCE):
            raise TimeoutError("the test never let this evaluation go")

    def wait(self) -> None:
        """Until an evaluation stands at the gate."""
        if not self._arrived.acquire(timeout=PATIENCE):
            raise TimeoutError("no evaluation came to the gate")

    def release(self) -> None:
        """Let the evaluation that stands there go on."""
        self._go.release()

    def advance(self) -> None:
        """Let one evaluation go on and wait for the next."""
        self.release()
        self.wait()

    def open(self) -> None:
        """Let everything through from now on."""
        self._opened.set()
        self._go.release()


def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait for something that should happen at once."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come about")
        time.sleep(0.001)


def bytes_alone(job: Job[Any]) -> bytes:
    """The pixels of a job that has an engine to itself."""
    (pixels,) = pixels_of(carry(ScriptedEngine(), [job]))
    return pixels.tobytes()


def pixel_bytes(ticket: Ticket) -> bytes:
    """The pixels that a ticket came to, once it has."""
    pixels = ticket.future.result(PATIENCE).result.pixels
    if pixels is None:
        raise ValueError("the result has no image")
    return pixels.tobytes()


def error_of(ticket: Ticket) -> BaseException | None:
    """The error that a ticket came to, once it has."""
    return ticket.future.exception(PATIENCE)
