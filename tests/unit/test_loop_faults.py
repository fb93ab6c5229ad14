"""Faults: a guilty row is told, its neighbours never notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from services.core.errors import EngineFailure, InvalidParameter, OutOfDeviceMemory
from services.core.job import Call, Task
from services.core.parameters import Latents
from services.core.trajectory import Result, Trajectory
from services.runtime.batching import PREPARING
from services.runtime.loop import Loop
from services.runtime.registry import LoadedModel
from tests.engines import RowByRow, carry, floats, opened, ready
from tests.scripted import PATIENCE, ScriptedEngine, bytes_alone, pixel_bytes, scripted, until, work

STAGES = pytest.mark.parametrize("stage", ["prepare", "step", "decode"])
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for ..."),
    RuntimeError("std::bad_alloc: bad allocation"),
    MemoryError(),
]
MEMORY = pytest.mark.parametrize(
    "error", OUT_OF_MEMORY, ids=["torch", "onnxruntime", "c++", "python"]
)


def raising(stage: str, name: str, error: Exception) -> Callable[[str, tuple[str, ...]], None]:
    """A hook that fails every evaluation of a stage with a certain job in it."""

    def hook(now: str, ids: tuple[str, ...]) -> None:
        if now == stage and name in ids:
            raise error

    return hook


def short_of_memory(stage: str, most: int, error: Exception) -> ScriptedEngine:
    """An engine whose device holds a few rows of a stage."""

    def hook(now: str, ids: tuple[str, ...]) -> None:
        if now == stage and len(ids) > most:
            raise error

    return ScriptedEngine(hook)


@STAGES
@pytest.mark.parametrize("noisy", [True, False])
def test_a_row_that_fails_fails_alone(loop: Loop, stage: str, noisy: bool) -> None:
    engine = ScriptedEngine(raising(stage, "bad", RuntimeError("a kernel's complaint")))
    jobs = [work(name, steps=6, noisy=noisy) for name in ("a", "b", "bad", "c")]
    tickets = loop.submit(scripted(engine), jobs)
    error = tickets[2].future.exception(PATIENCE)
    assert type(error) is EngineFailure
    assert "kernel" not in str(error), "an engine's inner words are for the log"
    for place in (0, 1, 3):
        assert pixel_bytes(tickets[place]) == bytes_alone(jobs[place])


def test_a_fault_in_the_middle_of_the_way_leaves_no_trace_in_the_noise_of_others(
    loop: Loop,
) -> None:
    """Noise is drawn once per evaluation, however often the evaluation is tried."""
    failures = iter([False, True, False, True, True, False, True])

    def hook(stage: str, ids: tuple[str, ...]) -> None:
        if stage == "step" and len(ids) > 1 and next(failures, False):
            raise RuntimeError("now and then")

    jobs = [work(name, steps=12) for name in "abcde"]
    tickets = loop.submit(scripted(ScriptedEngine(hook)), jobs)
    for job, ticket in zip(jobs, tickets, strict=True):
        assert pixel_bytes(ticket) == bytes_alone(job)


def test_an_engines_own_refusal_reaches_the_caller_as_it_is(loop: Loop) -> None:
    refusal = InvalidParameter("latents have another shape", param="latents")
    engine = ScriptedEngine(raising("prepare", "bad", refusal))
    good, bad = loop.submit(scripted(engine), [work("good"), work("bad")])
    assert bad.future.exception(PATIENCE) is refusal
    good.future.result(PATIENCE)


@STAGES
@MEMORY
def test_out_of_memory_halves_the_batch_lowers_the_cap_and_succeeds(
    loop: Loop, stage: str, error: Exception
) -> None:
    engine = short_of_memory(stage, 2, error)
    model = scripted(engine, knee=8)
    jobs = [work(f"{i}", steps=3) for i in range(8)]
    tickets = loop.submit(model, jobs)
    for job, ticket in zip(jobs, tickets, strict=True):
        assert pixel_bytes(ticket) == bytes_alone(job)
    sizes = [len(ids) for ids in engine.stages(stage)]
    assert sizes[:3] == [8, 4, 2]
    if stage == "prepare":
        assert model.caps.limit(PREPARING, 32) == 2
    else:
        assert model.caps.limit((stage, "shared" if stage == "step" else "image"), 32) == 2
    until(lambda: loop.status().trajectories == 0)
    engine.batches.clear()
    again = loop.submit(model, [work(f"again {i}", steps=2) for i in range(7)])
    for ticket in again:
        ticket.future.result(PATIENCE)
    assert max(len(ids) for ids in engine.stages(stage)) == 2


def test_a_cap_counts_rows_not_requests(loop: Loop) -> None:
    engine = short_of_memory("step", 2, torch.OutOfMemoryError("CUDA out of memory"))
    model = scripted(engine, knee=8)
    jobs = [work(f"{i}", steps=2, rows_each=2) for i in range(4)]
    for job, ticket in zip(jobs, loop.submit(model, jobs), strict=True):
        assert pixel_bytes(ticket) == bytes_alone(job)
    assert model.caps.limit(("step", "shared"), 32) == 4


@STAGES
@MEMORY
def test_a_single_row_that_does_not_fit_is_told_so_alone(
    loop: Loop, stage: str, error: Exception
) -> None:
    engine = ScriptedEngine(raising(stage, "huge", error))
    jobs = [work("a", steps=2), work("huge", steps=2), work("b", steps=2)]
    tickets = loop.submit(scripted(engine), jobs)
    assert type(tickets[1].future.exception(PATIENCE)) is OutOfDeviceMemory
    for place in (0, 2):
        assert pixel_bytes(tickets[place]) == bytes_alone(jobs[place])


class Forgetful(ScriptedEngine):
    """Loses the last result of every batch."""

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        return super().decode(batch)[:-1]


def test_an_engine_that_loses_results_fails_and_the_loop_lives(loop: Loop) -> None:
    tickets = loop.submit(scripted(Forgetful()), [work("a"), work("b"), work("c")])
    for ticket in tickets:
        assert type(ticket.future.exception(PATIENCE)) is EngineFailure
    job = work("d")
    assert pixel_bytes(loop.submit(scripted(ScriptedEngine()), [job])[0]) == bytes_alone(job)


def poisoned_gan() -> LoadedModel:
    """A generator that computes no numbers for latents far out."""

    def generate(z: Tensor) -> Mapping[str, Tensor]:
        image = torch.tanh(z).view(-1, 1, 2, 2)
        return {"image": torch.where(z.abs().max() > 100, torch.nan, image)}

    network = RowByRow(generate, {"z": floats(4)}, ["image"])
    engine = ready(opened("gan", {"generator": network}, resolution=(2, 2)))
    return LoadedModel(engine, "1", ready=True)


@pytest.mark.parametrize("place", range(3))
def test_a_row_that_is_not_a_number_fails_alone(loop: Loop, place: int) -> None:
    model = poisoned_gan()
    far = Latents.from_array(torch.full((4,), 1000.0).numpy()).model_dump()
    calls = [
        Call(f"{i}", "tiny-gan", Task.GENERATE, {"latents": far} if i == place else {"seed": i})
        for i in range(3)
    ]
    jobs = [job for call in calls for job in model.engine.jobs(call)]
    tickets = loop.submit(model, jobs)
    for i, ticket in enumerate(tickets):
        if i == place:
            error = ticket.future.exception(PATIENCE)
            assert type(error) is EngineFailure
            assert "not finite" in str(error)
            continue
        alone = carry(model.engine, [jobs[i]])[0].pixels
        assert alone is not None
        assert pixel_bytes(ticket) == alone.tobytes()
