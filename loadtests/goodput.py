"""Goodput on mixed diffusion traffic, side by side with peers over the same trained network.

``python -m loadtests.goodput``. Goodput is the highest Poisson arrival rate at which 99% of the
requests end within five times their solo latency. Latency runs from the *scheduled* arrival, so a
server that falls behind cannot hide it; refused and failed requests count as late. All servers see
the same requests at the same moments. Each is held to its own solo latency, which is generous to
slow ones.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.service import ROOT, serving
from loadtests.traffic import STEPS, Request, mixed, poisson

FACTOR = 5.0
SHARE = 0.99
GROWTH = 1.3
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


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one arrival rate."""

    rate: float
    requests: int
    in_time: float
    median_stretch: float
    p99_stretch: float

    @property
    def passed(self) -> bool:
        """Whether the rate counts as goodput."""
        return self.in_time >= SHARE


async def ask(session: aiohttp.ClientSession, url: str, request: Request) -> bool:
    """One request; whether it was answered with an image."""
    body = {"model": "shapes-ldm", **request.body()}
    try:
        async with session.post(url, json=body) as answer:
            await answer.read()
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def measure_solo(url: str) -> Solo:
    """Fit a line through lone requests of few and of many steps."""
    constant, slope = {}, {}
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        for guided in (False, True):
            seconds = {}
            for steps in STEPS:
                request = Request("a red star", steps, "euler", 3.0 if guided else 1.0, 0)
                await ask(session, url, request)
                times = []
                for _ in range(5):
                    started = time.monotonic()
                    if not await ask(session, url, request):
                        raise RuntimeError(f"{url} does not answer a lone request")
                    times.append(time.monotonic() - started)
                seconds[steps] = median(times)
            few, many = STEPS
            slope[guided] = (seconds[many] - seconds[few]) / (many - few)
            constant[guided] = seconds[few] - slope[guided] * few
    return Solo(constant, slope)


async def run_trial(url: str, rate: float, seconds: float, solo: Solo) -> Trial:
    """Send the traffic of one arrival rate and wait for every answer."""
    arrivals = poisson(rate, seconds, SEED)
    requests = mixed(len(arrivals), SEED)
    stretches: list[float] = []
    async with aiohttp.ClientSession(
        timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        started = time.monotonic()

        async def one(at: float, request: Request) -> None:
            await asyncio.sleep(started + at - time.monotonic())
            answered = await ask(session, url, request)
            latency = time.monotonic() - started - at
            stretches.append(latency / solo.seconds(request) if answered else float("inf"))

        await asyncio.gather(*map(one, arrivals, requests))
    stretches.sort()
    late = sum(stretch > FACTOR for stretch in stretches)
    return Trial(
        rate=rate,
        requests=len(stretches),
        in_time=1 - late / len(stretches),
        median_stretch=median(stretches),
        p99_stretch=stretches[min(len(stretches) - 1, int(SHARE * len(stretches)))],
    )


async def find_goodput(
    url: str, seconds: float, report: Callable[[str], None]
) -> tuple[Solo, list[Trial]]:
    """Raise the rate by steps of `GROWTH` until it is missed, or lower it until it is met."""
    solo = await measure_solo(url)
    report(f"  solo, 30 guided steps: {1000 * _thirty(solo):.0f} ms")
    sample = mixed(200, SEED)
    rate = FIRST_LOAD * len(sample) / sum(map(solo.seconds, sample))
    trials: list[Trial] = []
    while not trials or (trials[-1].passed == trials[0].passed and rate > LOWEST_RATE):
        trial = await run_trial(url, rate, seconds, solo)
        trials.append(trial)
        rate *= GROWTH if trials[0].passed else 1 / GROWTH
        report(
            f"  {trial.rate:6.2f} /s: {100 * trial.in_time:5.1f}% in time, "
            f"p50 {trial.median_stretch:.2f}x, p99 {trial.p99_stretch:.2f}x of solo"
        )
    return solo, trials


def _thirty(solo: Solo) -> float:
    return solo.seconds(Request("", 30, "euler", 3.0, 0))


def best(trials: list[Trial]) -> float:
    """The highest rate that passed; 0 when none did."""
    return max((trial.rate for trial in trials if trial.passed), default=0.0)


SERVERS: dict[str, tuple[Path, str]] = {
    "atelier": (ROOT / "deploy" / "serve.yaml", "/v1/generate"),
    "serve.batch": (ROOT / "loadtests" / "peers" / "serve_batch.yaml", "/generate"),
    "diffusers": (ROOT / "loadtests" / "peers" / "diffusers_pipeline.yaml", "/generate"),
}


def measure(name: str, seconds: float, report: Callable[[str], None]) -> Any:
    """Start one server and find its goodput."""
    config, path = SERVERS[name]
    server: AbstractContextManager[str] = serving(config)
    with server as address:
        solo, trials = asyncio.run(find_goodput(address + path, seconds, report))
    return {
        "goodput": round(best(trials), 3),
        "solo_30_guided_steps_seconds": round(_thirty(solo), 4),
        "trials": [
            {
                "rate": round(t.rate, 3),
                "requests": t.requests,
                "in_time": round(t.in_time, 4),
                "p50_stretch": round(t.median_stretch, 2),
                "p99_stretch": round(t.p99_stretch, 2),
            }
            for t in sorted(trials, key=lambda t: t.rate)
        ],
    }


def main() -> None:
    """Measure every server in one run, print the ratios, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of traffic per rate")
    parser.add_argument("--servers", nargs="*", default=list(SERVERS))
    options = parser.parse_args()
    console = Console()
    result: dict[str, Any] = {"machine": hardware.describe(), "factor": FACTOR, "servers": {}}
    for name in options.servers:
        console.print(name)
        result["servers"][name] = measure(name, options.seconds, console.print)
    ours = result["servers"].get("atelier", {}).get("goodput", 0.0)
    table = Table(title=f"requests per second, 99% within {FACTOR:g}x of solo")
    for heading in ("server", "goodput", "Atelier's is"):
        table.add_column(heading)
    for name, found in result["servers"].items():
        ratio = f"{ours / found['goodput']:.2f}x" if found["goodput"] else "beyond"
        table.add_row(name, f"{found['goodput']:.2f}", ratio)
    console.print(table)
    console.print(f"kept in {hardware.keep('goodput', result).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
