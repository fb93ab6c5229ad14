"""One, two and four replicas of a sleeping network: what routing makes of more devices.

``python -m loadtests.scaling`` serves `loadtests.sleeping` with each number of replicas, once with
each kind of routing. First as many requests are under way as keep every device full: row steps per
second, over those that one replica's cost curve allows. Then Poisson arrivals at a share of
that: latencies, and the share of requests within five times their solo latency. All servers see the
same arrivals, stretched to their number of replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import yaml

from loadtests import hardware
from loadtests.arrivals import poisson
from loadtests.service import serving
from loadtests.sleeping import KNEE, MODEL, STEP_SECONDS, step_seconds

REPLICAS = (1, 2, 4)
ROUTINGS = ("device_seconds", "ongoing_requests")
LOAD = 0.8
"""Of the devices' capacity, at which latencies are measured."""
CLIENTS_PER_REPLICA = 16
SATURATION_STEPS = 20
WITHIN = 5.0
SEED = 11
CAPACITY = KNEE / STEP_SECONDS
"""Row steps per second of one device."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: images of so many steps."""

    at: float
    n: int
    steps: int

    @property
    def row_steps(self) -> int:
        """Its work."""
        return self.n * self.steps

    @property
    def solo(self) -> float:
        """Seconds that it takes with a device to itself."""
        return self.steps * step_seconds(self.n)


def draw_asks(rate: float, seconds: float, seed: int = SEED) -> list[Ask]:
    """Poisson arrivals of requests, most of them small, at a rate in row steps per second."""
    draw = random.Random(seed)
    kinds = [(1, 10), (1, 20), (1, 50), (4, 50)]
    weights = [50, 30, 15, 5]
    work = sum(w * n * s for w, (n, s) in zip(weights, kinds, strict=True)) / sum(weights)
    return [Ask(at, *draw.choices(kinds, weights)[0]) for at in poisson(rate / work, seconds, seed)]


async def _send(session: aiohttp.ClientSession, url: str, n: int, steps: int) -> int:
    body = {"model": MODEL, "n": n, "steps": steps, "seed": 1}
    async with session.post(f"{url}/v1/generate", json=body) as answer:
        await answer.read()
        return answer.status


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=300), connector=aiohttp.TCPConnector(limit=0)
    )


async def saturated(url: str, clients: int, seconds: float) -> float:
    """Row steps per second with so many clients, each of which asks again once it is answered."""
    ends: list[float] = []
    async with _session() as session:
        begin = time.monotonic()
        warm = begin + seconds / 4

        async def client() -> None:
            while time.monotonic() < begin + seconds:
                if await _send(session, url, 1, SATURATION_STEPS) == 200:
                    ends.append(time.monotonic())

        await asyncio.gather(*(client() for _ in range(clients)))
    counted = [end for end in ends if warm <= end <= begin + seconds]
    return len(counted) * SATURATION_STEPS / (begin + seconds - warm)


async def latencies(url: str, asks: Sequence[Ask]) -> list[float]:
    """Seconds from when each request was due to its answer; infinite where there was none."""
    async with _session() as session:
        begin = time.monotonic()

        async def one(ask: Ask) -> float:
            await asyncio.sleep(begin + ask.at - time.monotonic())
            status = await _send(session, url, ask.n, ask.steps)
            return time.monotonic() - begin - ask.at if status == 200 else float("inf")

        return list(await asyncio.gather(*(one(ask) for ask in asks)))


def summary(asks: Sequence[Ask], seconds: Sequence[float]) -> dict[str, Any]:
    """Percentiles of latency, in seconds and as multiples of each request's solo latency."""
    times = np.array(seconds)
    slowdown = times / np.array([ask.solo for ask in asks])
    return {
        "requests": len(asks),
        "p50": round(float(np.percentile(times, 50)), 3),
        "p99": round(float(np.percentile(times, 99, method="lower")), 3),
        "p50_slowdown": round(float(np.percentile(slowdown, 50)), 3),
        "p99_slowdown": round(float(np.percentile(slowdown, 99, method="lower")), 3),
        "in_time": round(float(np.mean(slowdown <= WITHIN)), 4),
    }


def config(replicas: int, routing: str) -> dict[str, Any]:
    """Of a server with one pool apart."""
    pool = {
        "name": "sleepers",
        "models": ["*"],
        "preload": [MODEL],
        "device": "cpu",
        "num_cpus": 0.1,
        "queue_seconds": 600,
        "replicas": replicas,
        "routing": routing,
    }
    application = {
        "name": "atelier",
        "route_prefix": "/",
        "import_path": "loadtests.sleeping:build",
        "args": {"pools": [pool]},
    }
    return {"proxy_location": "HeadOnly", "http_options": {}, "applications": [application]}


def measure(replicas: int, routing: str, options: argparse.Namespace) -> dict[str, Any]:
    """One server, both measurements."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump(config(replicas, routing)))
        with serving(path) as url:
            asyncio.run(saturated(url, 2, 3.0))
            clients = CLIENTS_PER_REPLICA * replicas
            rate = asyncio.run(saturated(url, clients, options.saturation_seconds))
            asks = draw_asks(LOAD * CAPACITY * replicas, options.seconds)
            found = summary(asks, asyncio.run(latencies(url, asks)))
    linear = CAPACITY * replicas
    return {
        "replicas": replicas,
        "routing": routing,
        "row_steps_per_second": round(rate, 1),
        "of_linear": round(rate / linear, 4),
        "at_load": found,
    }


def plot(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Throughput over what is linear, and the slowest requests, by replicas."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - a test-time package

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for routing in ROUTINGS:
        own = [run for run in runs if run["routing"] == routing]
        counts = [run["replicas"] for run in own]
        left.plot(counts, [run["row_steps_per_second"] for run in own], "o-", label=routing)
        right.plot(counts, [run["at_load"]["p99_slowdown"] for run in own], "o-", label=routing)
    left.plot(REPLICAS, [CAPACITY * n for n in REPLICAS], "k:", label="linear")
    left.set(xlabel="replicas", ylabel="row steps per second", ylim=(0, None))
    right.set(xlabel="replicas", ylabel=f"p99 latency / solo, at {LOAD:.0%} load", ylim=(0, None))
    left.legend()
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run all servers one after the other, print and keep what they did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of Poisson arrivals")
    parser.add_argument("--saturation-seconds", type=float, default=20.0)
    parser.add_argument("--replicas", type=int, nargs="+", default=list(REPLICAS))
    options = parser.parse_args()
    machine = hardware.describe()
    runs = []
    for replicas, routing in itertools.product(options.replicas, ROUTINGS):
        runs.append(measure(replicas, routing, options))
        print(runs[-1], flush=True)
    result = {
        "hardware": machine,
        "network": {"knee": KNEE, "step_seconds": STEP_SECONDS},
        "load": LOAD,
        "seconds": options.seconds,
        "example": asdict(draw_asks(CAPACITY, 10.0)[0]),
        "runs": runs,
    }
    path = hardware.keep("scaling", result)
    plot(runs, path.with_suffix(".png"))
    print(path)


if __name__ == "__main__":
    main()
