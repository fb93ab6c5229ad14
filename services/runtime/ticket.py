"""A job's standing in the loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from services.core.job import Job, Timings
from services.core.trajectory import Result, Trajectory, Workload
from services.runtime.registry import LoadedModel
from services.runtime.trail import Trail


@dataclass(frozen=True, slots=True)
class Finished:
    """A result with the seconds that each stage took, and its own share of the device's."""

    result: Result
    timings: Timings
    device_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Ticket:
    """What the loop knows of one job, from acceptance to outcome.

    ``deadline`` is on ``time.monotonic``; ``binding`` says whether the caller set it (then the job
    is dropped once it has passed) or the loop did (then it only orders). ``step_work``,
    ``slice_work`` and ``decode_work`` are the device seconds that were reserved for each evaluation
    of it, ``step_solo``, ``slice_solo`` and ``decode_solo`` the seconds that one would take with
    the device to itself. ``device_seconds`` is its share, by rows, of the evaluations so far.
    ``watcher`` is told, in the loop's thread, after each of its stepwise evaluations. ``trail`` is
    its call's, where one is kept.
    """

    job: Job[Any]
    model: LoadedModel
    workload: Workload
    submitted: float
    deadline: float
    binding: bool
    step_work: float
    decode_work: float
    step_solo: float
    decode_solo: float
    slice_work: float = 0.0
    slice_solo: float = 0.0
    future: Future[Finished] = field(default_factory=Future)
    trajectory: Trajectory | None = None
    touched: float = 0.0
    prepare_seconds: float = 0.0
    step_seconds: float = 0.0
    decode_seconds: float = 0.0
    device_seconds: float = 0.0
    canceled: bool = False
    watcher: Callable[[Ticket], None] | None = None
    trail: Trail | None = None

    def cancel(self) -> None:
        """Withdraw: the loop drops the row before its next evaluation. Safe from any thread."""
        self.canceled = True

    @property
    def remaining_evaluations(self) -> int:
        """Stepwise evaluations still to come."""
        done = self.trajectory.index if self.trajectory is not None else 0
        return self.workload.evaluations - done

    @property
    def remaining_slices(self) -> int:
        """Slices of its decoding still to come."""
        return self.workload.slices if self.trajectory is None else self.trajectory.slices_left

    @property
    def remaining_work(self) -> float:
        """Device seconds still reserved."""
        steps = self.remaining_evaluations * self.step_work
        return steps + self.remaining_slices * self.slice_work + self.decode_work

    @property
    def remaining_solo(self) -> float:
        """Predicted seconds to the end if it had the device to itself."""
        return self.remaining_evaluations * self.step_solo + self.decoding_solo

    @property
    def decoding_solo(self) -> float:
        """Predicted seconds of what is left of its decoding, with the device to itself."""
        return self.remaining_slices * self.slice_solo + self.decode_solo

    @property
    def stage(self) -> str:
        """What it needs next: ``prepare``, ``step``, ``slice`` or ``decode``."""
        return "prepare" if self.trajectory is None else self.target

    @property
    def target(self) -> str:
        """What it waits for, once it is prepared: ``step``, ``slice`` or ``decode``."""
        if self.remaining_evaluations > 0:
            return "step"
        return "slice" if self.remaining_slices > 0 else "decode"

    @property
    def key(self) -> Hashable:
        """What its target may be shared by."""
        return self.workload.step if self.target == "step" else self.workload.decode

    @property
    def group(self) -> tuple[int, str, Hashable]:
        """Tickets of one group may share their target, prepared or not yet."""
        return id(self.model), self.target, self.key

    @property
    def rows(self) -> int:
        """Rows that it takes in its target; before it is prepared, the most that it may take."""
        if self.target != "step":
            return 1
        return self.workload.rows if self.trajectory is None else self.trajectory.rows

    @property
    def busy_seconds(self) -> float:
        """Seconds that batches with this row in them took."""
        return self.prepare_seconds + self.step_seconds + self.decode_seconds

    def timings(self, now: float) -> Timings:
        """Seconds by stage; what is no work was waiting."""
        return Timings(
            queue=max(0.0, now - self.submitted - self.busy_seconds),
            prepare=self.prepare_seconds,
            step=self.step_seconds,
            decode=self.decode_seconds,
        )
