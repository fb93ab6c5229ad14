"""Clients that wait for their answers, and arrivals that wait for nobody: rates and latencies."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

Send = Callable[[int], Awaitable[bool]]
"""Sends the request of a number; whether it was answered."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What came of some seconds of requests.

    Attributes:
        rate: answers per second.
        p50: of the latencies, in seconds; of arrivals they count from when a request was due.
        p99: likewise.
        failed: requests without an answer; their latencies are left out.
    """

    rate: float
    p50: float
    p99: float
    failed: int


def pace(latencies: Sequence[float], seconds: float, failed: int) -> Pace:
    """Of latencies in seconds; infinite where nothing was answered."""
    if not latencies:
        return Pace(0.0, float("inf"), float("inf"), failed)
    p50, p99 = np.percentile(latencies, [50, 99])
    return Pace(len(latencies) / seconds, float(p50), float(p99), failed)


async def closed_loop(send: Send, clients: int, seconds: float) -> Pace:
    """So many clients, each of which sends its next request when its last one is answered."""
    numbers, latencies, failed = itertools.count(), [], 0
    started = time.monotonic()
    end = started + seconds

    async def client() -> None:
        nonlocal failed
        while (now := time.monotonic()) < end:
            if await send(next(numbers)):
                latencies.append(time.monotonic() - now)
            else:
                failed += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return pace(latencies, time.monotonic() - started, failed)


async def open_loop(send: Send, arrivals: Sequence[float]) -> Pace:
    """Requests at the given moments, in seconds from now, whatever became of those before.

    The rate counts until the last answer, so a server that falls behind shows its own.
    """
    latencies, failed = [], 0
    started = time.monotonic()

    async def one(number: int, due: float) -> None:
        nonlocal failed
        await asyncio.sleep(started + due - time.monotonic())
        if await send(number):
            latencies.append(time.monotonic() - started - due)
        else:
            failed += 1

    await asyncio.gather(*itertools.starmap(one, enumerate(arrivals)))
    return pace(latencies, time.monotonic() - started, failed)
