"""Sends requests when they are due and writes down what came of each."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import aiohttp

from loadtests.open_loop.scenario import Due, Scenario

TIMEOUT = aiohttp.ClientTimeout(total=300)
REFUSALS = frozenset({429, 503, 504})
"""Statuses by which a server says that it will not take a request now."""
LONE_REQUESTS = 7


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request; moments are in seconds from the start of the run.

    Attributes:
        kind: its name.
        due: when it was to be sent.
        sent: when it was sent; later than it was due where this client fell behind.
        ended: when the answer was there whole, or it was clear that none would come.
        status: of HTTP; 0 without an answer.
        size: of the answer, in bytes.
    """

    kind: str
    due: float
    sent: float
    ended: float
    status: int
    size: int

    @property
    def answered(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether the server said that it would not take it now."""
        return self.status in REFUSALS

    @property
    def latency(self) -> float:
        """Seconds from the moment it was *due*; infinite where it was not done."""
        return self.ended - self.due if self.answered else math.inf


async def send(session: aiohttp.ClientSession, url: str, due: Due, start: float) -> Outcome:
    """One request, at once."""
    sent = time.monotonic() - start
    status = size = 0
    headers = {"content-type": "application/json", **due.kind.headers}
    try:
        async with session.post(url + due.kind.path, data=due.body, headers=headers) as answer:
            size = len(await answer.read())
            status = answer.status
    except (aiohttp.ClientError, TimeoutError):
        status = 0
    return Outcome(due.kind.name, due.at, sent, time.monotonic() - start, status, size)


async def run(url: str, requests: Sequence[Due]) -> list[Outcome]:
    """Send every request when it is due, and wait for all answers."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=TIMEOUT, connector=connector) as session:
        start = time.monotonic()

        async def one(due: Due) -> Outcome:
            await asyncio.sleep(start + due.at - time.monotonic())
            return await send(session, url, due, start)

        return list(await asyncio.gather(*map(one, requests)))


async def solo_seconds(url: str, scenario: Scenario) -> dict[str, float]:
    """The median latency of lone requests, by the name of their kind.

    Raises:
        RuntimeError: a lone request was not answered; the message has the answer's status.
    """
    draw = random.Random(scenario.seed)
    found = {}
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        for kind in scenario.mix:
            times = []
            for _ in range(LONE_REQUESTS + 1):
                due = Due.of(0.0, kind, draw)
                outcome = await send(session, url, due, time.monotonic())
                if not outcome.answered:
                    raise RuntimeError(f"a lone '{kind.name}' came back with {outcome.status}")
                times.append(outcome.latency)
            found[kind.name] = median(times[1:])  # the first may load the model
    return found
