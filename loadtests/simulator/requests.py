"""What is asked of a simulated pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.runtime.cost import CostCurve


@dataclass(slots=True, eq=False)
class Request:
    """``n`` images of so many ``steps``, due at a moment; ``ended`` once they are done."""

    due: float
    n: int = 1
    steps: int = 0
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """What one model's evaluations cost: each curve is seconds by rows, as the runtime keeps it."""

    step: CostCurve
    decode: CostCurve

    def work(self, request: Request) -> float:
        """Device seconds in batches at the knee, as admission reckons."""
        return request.n * (request.steps * self.step.row_seconds() + self.decode.row_seconds())

    def solo(self, request: Request) -> float:
        """Seconds with a device to itself."""
        rows = min(request.n, self.step.knee())
        turns = -(-request.n // rows)
        return turns * request.steps * self.step.seconds(rows) + self.decode.seconds(request.n)


Finished = Callable[[Request], None]
