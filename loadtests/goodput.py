"""Goodput on mixed diffusion traffic, side by side with peers over the same trained network.

``python -m loadtests.goodput``. Goodput is the highest Poisson arrival rate at which 99% of the
requests end within five times their solo latency. Latency runs from the *scheduled* arrival, so a
server that falls behind cannot hide it; refused and failed requests count as late. All servers see
the same requests at the same moments, and are held to the same latencies: those of the server that
is fastest with a lone request. Beside that figure stands the one with every server held to its own
solo latency, under which a slow one is allowed to answer late.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.arrivals import poisson
from loadtests.peers.servers import Body, Server, servers
from loadtests.service import ROOT
from loadtests.traffic import STEPS, Request, mixed

FACTOR = 5.0
SHARE = 0.99
GROWTH = 1.2
LOWEST_RATE = 0.1
FIRST_LOAD = 0.6
"""The first rate tried, as a share of what lone requests one after the other would make."""
SEED = 11
TIMEOUT = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True, slots=True)
class Solo:
    """Latency of a lone request: a constant and a part per network evaluation, by guidance."""

    constant: dict[bool, float]
    per_evaluation: dict[bool, float]

    def seconds(self, request: Request) -> float:
        """Of one request."""
        slope = self.per_evaluation[request.guided]
        return self.constant[request.guided] + slope * request.evaluations


Objective = Callable[[Request], float]
"""The latency, in seconds, within which a request must end."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one arrival rate: shares of requests in time, and latencies over the objective.

    ``in_time`` is by the common objective, ``in_own_time`` by the server's own solo latency.
    """

    rate: float
    requests: int
    in_time: float
    in_own_time: float
    p50: float
    p99: float

    def as_json(self) -> dict[str, float]:
        """Rounded."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is up: where to send requests, and how its body is made of their fields."""

    url: str
    body: Body


async def ask(session: aiohttp.ClientSession, target: Target, request: Request) -> bool:
    """One request; whether it was answered with an image."""
    body = target.body({"model": "shapes-ldm", **request.body()})
    try:
        async with session.post(target.url, json=body) as answer:
            await answer.read()
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def measure_solo(target: Target) -> Solo:
    """Fit a line through lone requests of few and of many steps."""
    constant, slope = {}, {}
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        for guided in (False, True):
            seconds = {}
            for steps in STEPS:
                request = Request("a red star", steps, "euler", 3.0 if guided else 1.0, 0)
                await ask(session, target, request)
                times = []
                for _ in range(5):
                    started = time.monotonic()
                    if not await ask(session, target, request):
                        raise RuntimeError(f"{target.url} does not answer a lone request")
                    times.append(time.monotonic() - started)
                seconds[steps] = median(times)
            few, many = STEPS
            slope[guided] = (seconds[many] - seconds[few]) / (many - few)
            constant[guided] = seconds[few] - slope[guided] * few
    return Solo(constant, slope)


async def run_trial(
    target: Target, rate: float, seconds: float, objective: Objective, own: Objective
) -> Trial:
    """Send the traffic of one arrival rate and wait for every answer."""
    arrivals = poisson(rate, seconds, SEED)
    requests = mixed(len(arrivals), SEED)
    latencies = [math.inf] * len(requests)
    async with aiohttp.ClientSession(
        timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        started = time.monotonic()

        async def one(number: int) -> None:
            at = arrivals[number]
            await asyncio.sleep(started + at - time.monotonic())
            if await ask(session, target, requests[number]):
                latencies[number] = time.monotonic() - started - at

        await asyncio.gather(*map(one, range(len(requests))))
    pairs = list(zip(latencies, requests, strict=True))
    shares = sorted(latency / objective(request) for latency, request in pairs)
    return Trial(
        rate=rate,
        requests=len(requests),
        in_time=fmean(share <= 1 for share in shares),
        in_own_time=fmean(latency <= own(request) for latency, request in pairs),
        p50=median(shares),
        p99=shares[min(len(shares) - 1, int(SHARE * len(shares)))],
    )


def ladder(number: int) -> float:
    """The arrival rates that are tried."""
    return LOWEST_RATE * GROWTH**number


async def find_goodput(
    trial: Callable[[int], Awaitable[Trial]], passed: Callable[[Trial], bool], first: int
) -> float:
    """The highest rate that passes: up the ladder from one that does, else down to one that does.

    Args:
        trial: one rung's; asked again for a rung, it answers from memory.
        passed: whether a trial met the objective.
        first: where to begin.

    Returns:
        The rate; 0 when even the lowest was missed.
    """
    rung = first
    if passed(await trial(rung)):
        while passed(await trial(rung + 1)):
            rung += 1
        return ladder(rung)
    while rung > 0:
        rung -= 1
        if passed(await trial(rung)):
            return ladder(rung)
    return 0.0


async def measure(
    target: Target, seconds: float, solo: Solo, objective: Objective, report: Callable[[str], None]
) -> dict[str, Any]:
    """One server's goodput, by the common objective and by its own."""
    trials: dict[int, Trial] = {}

    def own(request: Request) -> float:
        return FACTOR * solo.seconds(request)

    async def trial(rung: int) -> Trial:
        if rung not in trials:
            found = await run_trial(target, ladder(rung), seconds, objective, own)
            trials[rung] = found
            report(
                f"  {found.rate:5.2f} /s: {found.in_time:6.1%} in time, {found.in_own_time:6.1%} "
                f"in its own, p50 {found.p50:.2f} and p99 {found.p99:.2f} of the objective"
            )
        return trials[rung]

    sample = mixed(200, SEED)
    lone_rate = len(sample) / sum(map(solo.seconds, sample))
    first = max(0, round(math.log(FIRST_LOAD * lone_rate / LOWEST_RATE, GROWTH)))
    by_own = await find_goodput(trial, lambda t: t.in_own_time >= SHARE, first)
    goodput = 0.0
    if fmean(solo.seconds(request) <= objective(request) for request in sample) >= SHARE:
        goodput = await find_goodput(trial, lambda t: t.in_time >= SHARE, first)
    return {
        "goodput": round(goodput, 3),
        "goodput_by_own_latency": round(by_own, 3),
        "solo_30_guided_steps_seconds": round(_thirty(solo), 4),
        "trials": [trials[rung].as_json() for rung in sorted(trials)],
    }


def _thirty(solo: Solo) -> float:
    return solo.seconds(Request("", 30, "euler", 3.0, 0))


@contextmanager
def started(server: Server) -> Iterator[Target]:
    """Start a server, and stop it again."""
    with server.start() as address:
        yield Target(address + server.path, server.body)


def solo_latencies(known: Mapping[str, Server], report: Callable[[str], None]) -> dict[str, Solo]:
    """Start each server for its lone requests."""
    found = {}
    for name, server in known.items():
        with started(server) as target:
            found[name] = asyncio.run(measure_solo(target))
        report(f"{name}: a lone request of 30 guided steps takes {_thirty(found[name]):.3f} s")
    return found


def print_table(servers: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """The figures, and how many times each peer's ours is."""
    table = Table(title=f"requests per second, {SHARE:.0%} within {FACTOR:g}x of solo latency")
    for heading in ("server", "same latency", "Atelier's is", "own latency", "Atelier's is"):
        table.add_column(heading)
    kinds = ("goodput", "goodput_by_own_latency")
    ours = servers.get("atelier", dict.fromkeys(kinds, 0.0))
    for name, found in servers.items():
        cells = []
        for kind in kinds:
            ratio = f"{ours[kind] / found[kind]:.2f}x" if found[kind] else "beyond any ratio"
            cells += [f"{found[kind]:.2f}", ratio]
        table.add_row(name, *cells)
    console.print(table)


def main() -> None:
    """Measure every server in one run, print the ratios, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=45.0, help="of traffic per rate")
    parser.add_argument("--servers", nargs="*", default=list(servers()), choices=list(servers()))
    options = parser.parse_args()
    chosen = {name: servers()[name] for name in options.servers}
    console = Console()
    machine = hardware.describe()
    solos = solo_latencies(chosen, console.print)

    def objective(request: Request) -> float:
        return FACTOR * min(solo.seconds(request) for solo in solos.values())

    found = {}
    for name, server in chosen.items():
        console.print(name)
        with started(server) as target:
            found[name] = asyncio.run(
                measure(target, options.seconds, solos[name], objective, console.print)
            )
    print_table(found, console)
    result = {"machine": machine, "factor": FACTOR, "share": SHARE, "servers": found}
    console.print(f"kept in {hardware.keep('goodput', result).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
