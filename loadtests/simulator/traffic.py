"""What arrives at a simulated pool."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from loadtests.simulator.requests import Request
from services.runtime.cost import CostCurve

DAY = 86_400.0
MIX: Sequence[tuple[int, int]] = ((1, 10), (1, 20), (1, 50), (4, 50))
"""Images and steps of each: most requests are small."""
WEIGHTS = (50, 30, 15, 5)
SWING = 0.7
"""How far the rate of a day moves from its mean, as a share of it."""


def mean_work(step: CostCurve) -> float:
    """Device seconds of a request of the mix, in batches at the knee."""
    row_steps = sum(w * n * s for w, (n, s) in zip(WEIGHTS, MIX, strict=True)) / sum(WEIGHTS)
    return row_steps * step.row_seconds()


def steady(rate: float, seconds: float, seed: int) -> Iterator[Request]:
    """Poisson arrivals of the mix at so many requests per second."""
    draw, now = random.Random(seed), 0.0
    while (now := now + draw.expovariate(rate)) < seconds:
        yield Request(now, *draw.choices(MIX, WEIGHTS)[0])


def diurnal(mean_rate: float, seconds: float, seed: int) -> Iterator[Request]:
    """Poisson arrivals whose rate is least at the beginning and greatest after half a day."""
    draw, now, most = random.Random(seed), 0.0, mean_rate * (1 + SWING)
    while (now := now + draw.expovariate(most)) < seconds:
        rate = mean_rate * (1 - SWING * math.cos(2 * math.pi * now / DAY))
        if draw.random() < rate / most:  # thinning (Lewis and Shedler, 1979)
            yield Request(now, *draw.choices(MIX, WEIGHTS)[0])
