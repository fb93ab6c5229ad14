"""How many rows a network is given at once, so that a row never shows its company.

Kernels are chosen by shape, and another kernel adds in another order. What a backend keeps to on
this hardware is found by trying, not by trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.core.errors import EngineFailure

Run = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]

MOST_ROWS = 64
FIXED_ROWS = 8
PROBED_SIZES = (2, 3, 5, 8, 16)
PROBED_ROWS = 16
PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RowPlan:
    """At most ``most`` rows go in at once, padded up to ``least`` with copies of the first.

    Where ``least`` is larger than ``most`` a static batch is filled up with a single row's copies.
    """

    least: int = 1
    most: int = MOST_ROWS

    def run(self, function: Run, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Evaluate any number of rows; outputs have as many."""
        count = len(next(iter(inputs.values())))
        if self.least <= count <= self.most:
            return list(function(inputs))
        parts = [
            self._run_chunk(function, {k: v[start : start + self.most] for k, v in inputs.items()})
            for start in range(0, count, self.most)
        ]
        return [torch.cat(columns) for columns in zip(*parts, strict=True)]

    def _run_chunk(self, function: Run, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        count = len(next(iter(inputs.values())))
        missing = self.least - count
        if missing <= 0:
            return list(function(inputs))
        padded = {k: torch.cat([v, v[:1].expand(missing, *v.shape[1:])]) for k, v in inputs.items()}
        return [output[:count] for output in function(padded)]


def candidates(static_batch: int | None, fixed: int | None = None) -> tuple[RowPlan, ...]:
    """Plans from the cheapest to the one that cannot fail: a row alone.

    Args:
        static_batch: the only batch size that the graph takes, if it takes but one.
        fixed: the one batch size that it is to be given, where probing some sizes says too little
            of the others.
    """
    if static_batch is not None:
        plans = (RowPlan(static_batch, static_batch), RowPlan(static_batch, 1))
        return plans[: 1 if static_batch == 1 else 2]
    if fixed is not None:
        return (RowPlan(fixed, fixed), RowPlan(1, 1))[: 1 if fixed == 1 else 2]
    return RowPlan(), RowPlan(least=2), RowPlan(FIXED_ROWS, FIXED_ROWS), RowPlan(1, 1)


def find_plan(
    function: Run,
    rows: Mapping[str, Tensor],
    static_batch: int | None,
    fixed: int | None = None,
) -> RowPlan:
    """The cheapest plan under which a row is bitwise the same in every company.

    Args:
        function: evaluates a batch.
        rows: `PROBED_ROWS` random rows of every input.
        static_batch: see `candidates`.
        fixed: see `candidates`.
    """
    plans = candidates(static_batch, fixed)
    for plan in plans[:-1]:
        try:
            if is_stable(plan, function, rows):
                return plan
        except EngineFailure:  # a graph that says any batch, and has one size built in
            continue
    return plans[-1]


def is_stable(plan: RowPlan, function: Run, rows: Mapping[str, Tensor]) -> bool:
    """Whether rows alone equal the same rows among others, at several sizes and places.

    Larger sizes are left out once `PROBE_SECONDS` have gone.
    """
    started = time.monotonic()
    alone: dict[int, list[bytes]] = {}
    for size in PROBED_SIZES:
        if size > PROBED_SIZES[1] and time.monotonic() - started > PROBE_SECONDS:
            break
        order = _company(size)
        together = plan.run(function, {k: v[torch.tensor(order)] for k, v in rows.items()})
        for place, row in enumerate(order):
            if row >= len(PROBED_SIZES):
                continue
            if row not in alone:
                single = plan.run(function, {k: v[row : row + 1] for k, v in rows.items()})
                alone[row] = [_bits(output[0]) for output in single]
            if [_bits(output[place]) for output in together] != alone[row]:
                return False
    return True


def _company(size: int) -> list[int]:
    """Rows of a batch: some of the first few, which are compared, at scattered places."""
    shuffled = [int(r) for r in np.random.default_rng(size).permutation(PROBED_ROWS)[:size]]
    for place, row in ((0, 0), (size // 2, 1), (size - 1, 2 % size)):
        if row in shuffled:
            shuffled[shuffled.index(row)] = shuffled[place]
        shuffled[place] = row
    return shuffled


def _bits(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().numpy().tobytes()
