"""How fast a backend answers: callers that never pause, and callers who come at a rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import numpy as np

from services.core.backend import Backend
from services.core.job import Call

WAVES = 2
LEAST_REQUESTS = 100
"""Of a 99th percentile; of fewer it would be the slowest of them."""

Calls = Callable[[int], Call]
"""The request of a number."""


async def throughput(backend: Backend, calls: Calls, *, concurrency: int, seconds: float) -> float:
    """Images per second with callers that ask again as soon as they are answered.

    Rows that step together end together, so answers come in waves and counting them between two
    moments is off by up to a wave at both ends. The slope of the line through the number done over
    time is not, as long as it crosses several: `WAVES`, after a first one that only fills batches.

    Args:
        backend: what is measured.
        calls: each for one image.
        concurrency: how many callers.
        seconds: at least; a slow model is measured for longer.
    """
    times: list[float] = []
    numbers = iter(range(1 << 40))
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < end or len(times) < (WAVES + 1) * concurrency:
            await backend.run(calls(next(numbers)))
            times.append(time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())
    # The first wave fills the batches; while the last callers finish, they are no longer full.
    steady = np.array(sorted(times)[concurrency:-concurrency])
    return float(np.polyfit(steady - steady[0], np.arange(len(steady)), 1)[0])


async def latencies(
    backend: Backend, calls: Calls, *, rate: float, seconds: float, seed: int
) -> list[float]:
    """Seconds to each answer where requests come at random, whether others are answered or not.

    The same seed is the same arrivals (a Poisson process), so that configurations meet the same
    crowds.

    Args:
        backend: what is measured.
        calls: each for one image.
        rate: requests per second.
        seconds: at least; longer where `LEAST_REQUESTS` need it.
        seed: of the arrivals.
    """
    draw = random.Random(seed)  # noqa: S311 - arrivals are drawn, nothing is guarded
    count = max(LEAST_REQUESTS, round(rate * seconds))
    found: list[float] = []

    async def one(number: int, due: float) -> None:
        await backend.run(calls(number))
        # From when it was due, not from when it was sent: a loop that is late must not look fast.
        found.append(time.perf_counter() - due)

    due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            due += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(number, due))
    return found
