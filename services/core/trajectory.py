"""One image in flight."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from services.core.images import Pixels
from services.core.job import Job


@dataclass(frozen=True, slots=True)
class Workload:
    """What a job asks of the device, known before it is started.

    Attributes:
        decode: jobs with equal values may share the evaluation that decodes them.
        step: jobs with equal values may share a stepwise evaluation.
        evaluations: stepwise evaluations before it is decoded; 0 for families of one evaluation.
        rows: rows that the job takes in each stepwise batch.
        slices: evaluations in which most of its decoding is done, one at a time between other
            rows' evaluations; 0 where it is decoded at once.
    """

    decode: Hashable
    step: Hashable = None
    evaluations: int = 0
    rows: int = 1
    slices: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Trajectory:
    """The only owner of one image's state between noise and result.

    Attributes:
        job: what was asked.
        workload: what it asks of the device.
        x: the state, without a batch dimension.
        index: how many of the workload's evaluations are done.
        condition: what the network is told besides the state.
        generator: the trajectory's own source of noise, on the CPU.
        parts: what the slices of its decoding came to, in their order.
    """

    job: Job[Any]
    workload: Workload
    x: Tensor
    generator: torch.Generator
    index: int = 0
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    parts: list[Tensor] = field(default_factory=list)
    _pending: Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing but decoding is left."""
        return self.index >= self.workload.evaluations

    @property
    def slices_left(self) -> int:
        """Slices of its decoding that are still to come."""
        return self.workload.slices - len(self.parts)

    @property
    def rows(self) -> int:
        """Rows that it takes in its next stepwise evaluation: at most the workload's."""
        return self.workload.rows

    def noise(self) -> Tensor:
        """Unit noise of the state's shape for the evaluation under way.

        Drawn once per evaluation: an evaluation that is retried after a failure sees the same
        noise, so a neighbour's fault leaves no trace in this image.
        """
        if self._pending is None:
            self._pending = torch.randn(self.x.shape, generator=self.generator)
        return self._pending

    def commit(self, x: Tensor) -> None:
        """Take the state after an evaluation; the only way that a trajectory moves on."""
        self.x = x
        self.index += 1
        self._pending = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a trajectory came to: pixels, or values, or both."""

    pixels: Pixels | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
