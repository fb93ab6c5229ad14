"""When requests arrive, whatever the server makes of those before: open loop."""

from __future__ import annotations

import random
from typing import Literal

Process = Literal["poisson", "gamma", "uniform"]


def arrivals(
    process: Process, rate: float, seconds: float, seed: int, *, burstiness: float = 1.0
) -> list[float]:
    """Arrival times in seconds from the start, ascending, all before the end.

    The same seed gives the same process of rate one, stretched: at another rate the same bursts
    meet the server, only faster.

    Args:
        process: ``poisson`` has exponential gaps, ``gamma`` has gamma-distributed ones, ``uniform``
            equal ones.
        rate: mean arrivals per second, above 0.
        seconds: how long.
        seed: of the gaps.
        burstiness: the squared coefficient of variation of ``gamma``'s gaps; 1 is Poisson, above it
            requests come in bursts.

    Raises:
        ValueError: the rate or the burstiness is not above 0.
    """
    if rate <= 0 or burstiness <= 0:
        raise ValueError(f"rate and burstiness must be above 0, not {rate:g} and {burstiness:g}")
    draw = random.Random(seed)
    shape = 1 / burstiness
    times, now = [], 0.0
    while True:
        if process == "uniform":
            gap = 1.0
        elif process == "gamma":
            gap = draw.gammavariate(shape, 1 / shape)
        else:
            gap = draw.expovariate(1.0)
        now += gap / rate
        if now >= seconds:
            return times
        times.append(now)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process."""
    return arrivals("poisson", rate, seconds, seed)
