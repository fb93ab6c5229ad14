"""What a batch costs: measured at load, learned while serving."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from threading import Lock
from typing import Any

from services.core.engine import Engine
from services.core.job import Job
from services.core.trajectory import Trajectory

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
REPETITIONS = 4
MEASURING_SECONDS = 1.5
"""Larger batches are left out once the evaluations so far took this long."""
WORTHLESS = 1.5
"""So are batches beyond one whose rows cost this much more than the cheapest."""
UNMEASURED_SECONDS = 0.02
"""Guessed for a row at the knee of work that no rehearsal measures; it is learned in its use."""
UNMEASURED_KNEE = 8
"""Such rows share evaluations too, up to this many; a row alone is guessed at twice the cost."""
SPEED_RATE = 0.05
"""How fast a curve follows the hardware's speed, which moves all its points alike."""
SHAPE_RATE = 0.005
"""How fast a point moves against the others. Only the sizes in use are observed: were they as quick
to move as the whole, any slow moment would make the sizes not in use look better."""
OUTLIER = 2.0
KNEE_TOLERANCE = 0.05


class CostCurve:
    """Seconds that one evaluation of a number of rows takes.

    Linear between measured sizes. Observations while serving move the whole curve slowly, and the
    points next to them against the others far more slowly, so that a curve follows the hardware it
    runs on but not its noise.
    """

    def __init__(self, points: dict[int, float]) -> None:
        """Take seconds by rows; at least one point."""
        self._rows = sorted(points)
        self._seconds = [points[rows] for rows in self._rows]
        self.fixed_knee: int | None = None
        """Rows that an operator has set in place of the knee."""

    @property
    def points(self) -> dict[int, float]:
        """Seconds by rows, as known now."""
        return dict(zip(self._rows, self._seconds, strict=True))

    def seconds(self, rows: int) -> float:
        """Predicted seconds of one evaluation of ``rows`` rows."""
        left, right, share = self._bracket(rows)
        if left == right:
            return self._seconds[left] * max(1.0, rows / self._rows[left])
        return self._seconds[left] + share * (self._seconds[right] - self._seconds[left])

    def knee(self) -> int:
        """The smallest measured batch beyond which another row no longer makes rows cheaper.

        Where an operator has set another, that.
        """
        if self.fixed_knee is not None:
            return self.fixed_knee
        per_row = [s / r for r, s in zip(self._rows, self._seconds, strict=True)]
        good_enough = min(per_row) * (1 + KNEE_TOLERANCE)
        return next(r for r, cost in zip(self._rows, per_row, strict=True) if cost <= good_enough)

    def row_seconds(self) -> float:
        """Device seconds that a row costs in a batch at the knee."""
        knee = self.knee()
        return self.seconds(knee) / knee

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one evaluation."""
        expected = self.seconds(rows)
        surprise = min(max(seconds / expected, 1 / OUTLIER), OUTLIER) - 1
        left, right, share = self._bracket(rows)
        self._seconds = [s * (1 + SPEED_RATE * surprise) for s in self._seconds]
        self._seconds[left] *= 1 + SHAPE_RATE * (1 - share) * surprise
        if right != left:
            self._seconds[right] *= 1 + SHAPE_RATE * share * surprise

    def _bracket(self, rows: int) -> tuple[int, int, float]:
        """Indices of the measured sizes around ``rows`` and how far between them it lies."""
        right = bisect.bisect_left(self._rows, rows)
        if right == len(self._rows):
            return right - 1, right - 1, 0.0
        if right == 0 or self._rows[right] == rows:
            return right, right, 0.0
        low, high = self._rows[right - 1], self._rows[right]
        return right - 1, right, (rows - low) / (high - low)


class Costs:
    """The cost curves of one engine, by stage and workload key."""

    def __init__(self, curves: dict[tuple[str, Hashable], CostCurve] | None = None) -> None:
        """Start from measured curves, or from none."""
        self._curves = dict(curves or {})
        self._knees: Mapping[str, int] = {}

    def add(self, measured: Costs) -> None:
        """Take over what was measured later."""
        self._curves |= measured._curves
        self.fix_knees(self._knees)

    def fix_knees(self, knees: Mapping[str, int]) -> None:
        """Batch by these rows, by stage, in place of what the curves say; also those to come."""
        self._knees = knees
        for (stage, _), curve in self._curves.items():
            curve.fixed_knee = knees.get(stage)

    def curve(self, stage: str, key: Hashable) -> CostCurve:
        """The curve of a stage (``step`` or ``decode``); a guess where nothing was measured yet."""
        found = self._curves.get((stage, key))
        if found is None:
            found = CostCurve(
                {1: 2 * UNMEASURED_SECONDS, UNMEASURED_KNEE: UNMEASURED_KNEE * UNMEASURED_SECONDS}
            )
            found.fixed_knee = self._knees.get(stage)
            self._curves[(stage, key)] = found
        return found


def measure(engine: Engine, rehearsal: Sequence[Job[Any]], device_lock: Lock) -> Costs:
    """Measure an engine's costs by its own rehearsal; also its warm-up.

    Args:
        engine: set up.
        rehearsal: typical jobs, one for each kind of workload.
        device_lock: held for one evaluation at a time, so that other models go on between.
    """
    curves: dict[tuple[str, Hashable], CostCurve] = {}
    for job in rehearsal:
        load = engine.workload(job)
        if load.evaluations and ("step", load.step) not in curves:
            curves["step", load.step] = _measure(engine, job, engine.step, load.rows, device_lock)
        if load.slices and ("slice", load.decode) not in curves:
            curves["slice", load.decode] = _measure(engine, job, _a_slice(engine), 1, device_lock)
        if ("decode", load.decode) not in curves:
            curves["decode", load.decode] = _measure(engine, job, engine.decode, 1, device_lock)
    return Costs(curves)


def _measure(
    engine: Engine,
    job: Job[Any],
    evaluate: Callable[[Sequence[Trajectory]], object],
    rows_each: int,
    device_lock: Lock,
) -> CostCurve:
    points: dict[int, float] = {}
    began = time.perf_counter()
    for size in BATCH_SIZES:
        with device_lock:
            batch = engine.prepare([job] * size)
            if evaluate == engine.decode and not batch[0].finished:
                engine.step(batch)  # a bound has at least one term
            while evaluate == engine.decode and batch[0].slices_left > 0:
                engine.decode_slice(batch)
        seconds = [_timed(evaluate, batch, device_lock) for _ in range(REPETITIONS)]
        rows = size * rows_each
        # Whatever else runs on the machine only ever adds time, so the least is the truest.
        points[rows] = min(seconds)
        cheapest = min(s / r for r, s in points.items())
        spent = time.perf_counter() - began
        if spent > MEASURING_SECONDS or points[rows] / rows > WORTHLESS * cheapest:
            break
    return CostCurve(points)


def _a_slice(engine: Engine) -> Callable[[Sequence[Trajectory]], None]:
    """The first slice of decoding, as often as it is asked for."""

    def evaluate(batch: Sequence[Trajectory]) -> None:
        for trajectory in batch:
            trajectory.parts.clear()
        engine.decode_slice(batch)

    return evaluate


def _timed(
    evaluate: Callable[[Sequence[Trajectory]], object], batch: Sequence[Trajectory], lock: Lock
) -> float:
    with lock:
        started = time.perf_counter()
        evaluate(batch)
        return time.perf_counter() - started
