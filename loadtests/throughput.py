"""Images per second of each built-in model: the bare network, the loop in process, and over HTTP.

``make bench``, or ``python -m loadtests.throughput [--rounds 5] [--models ...]``. Machines differ,
are shared, and drift: the three are measured in turn, in rounds of a few seconds, with the server
up all the time, and what counts is the median over rounds of their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.service import ROOT, serving
from services.core.engine import Engine
from services.core.job import Call, Job, Task
from services.core.network import Network
from services.serving.in_process import InProcessBackend
from services.serving.local import local_backend

CONCURRENCY = 32
WARM_UP_SECONDS = 3.0
WAVES = 3
BATCH_SIZES = (8, 16, 32, 64)
REQUESTS: dict[str, dict[str, Any]] = {
    "shapes-ldm": {
        "prompt": "a large red star at the top left on black",
        "steps": 20,
        "sampler": "dpmpp_2m",
        "guidance_scale": 3.0,
    },
    "shapes-cgan": {"label": "star"},
    "shapes-vae": {},
    "digits-realnvp": {},
}


@dataclass(frozen=True)
class Round:
    """Images per second of one model, the three measured one right after the other."""

    network: float
    loop: float
    http: float


def summary(rounds: Sequence[Round]) -> dict[str, float]:
    """Medians over rounds of the rates and of their ratios, and the ratios' range."""
    kept = {
        "network_images_per_second": [r.network for r in rounds],
        "loop_images_per_second": [r.loop for r in rounds],
        "http_images_per_second": [r.http for r in rounds],
        "loop_over_network": [r.loop / r.network for r in rounds],
        "http_over_loop": [r.http / r.loop for r in rounds],
    }
    found = {name: round(statistics.median(values), 3) for name, values in kept.items()}
    for name in ("loop_over_network", "http_over_loop"):
        found[f"{name}_least"] = round(min(kept[name]), 3)
        found[f"{name}_most"] = round(max(kept[name]), 3)
    return found


def seconds_per_row(network: Network, sizes: Sequence[int], seconds: float) -> dict[int, float]:
    """Mean time per row at each batch size, evaluated in turn until the time is up."""
    inputs = {size: random_rows(network, size) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times[sizes[-1]]:
        for size, given in inputs.items():
            started = time.perf_counter()
            network(**given)
            times[size].append(time.perf_counter() - started)
    return {size: statistics.mean(found) / size for size, found in times.items()}


def random_rows(network: Network, count: int) -> dict[str, torch.Tensor]:
    """Inputs of a network's own shapes and types."""
    return {
        name: torch.randn(count, *(side or 1 for side in spec.shape))
        if spec.dtype.is_floating_point
        else torch.zeros(count, *(side or 1 for side in spec.shape), dtype=spec.dtype)
        for name, spec in network.inputs.items()
    }


class BareNetworks:
    """What a model's networks do for one image, each at its best batch."""

    def __init__(self, engine: Engine, job: Job[Any], seconds: float) -> None:
        """Find the best batches, with some seconds for each network."""
        load, networks = engine.workload(job), engine.model.networks
        last = {"gan": "generator", "flow": "inverse"}.get(engine.family, "decoder")
        uses = [(networks[last], 1)]
        if load.evaluations:
            uses.append((networks["denoiser"], load.evaluations * load.rows))
        self._uses = []
        for network, count in uses:
            found = seconds_per_row(network, BATCH_SIZES, seconds)
            self._uses.append((network, count, min(found, key=lambda size: found[size])))

    def rate(self, seconds: float) -> float:
        """Images per second, measured now."""
        share = seconds / len(self._uses)
        costs = [
            count * seconds_per_row(network, [size], share)[size]
            for network, count, size in self._uses
        ]
        return 1 / sum(costs)


async def saturate(send: Callable[[int], Awaitable[None]], seconds: float) -> float:
    """Images per second with `CONCURRENCY` callers that never pause, after a warm-up.

    Rows that step together also end together, so that answers come in waves and counting them
    between two moments is off by up to a wave at both ends. The slope of the line through the
    number done over time is not, as long as it crosses several of them: a slow model is measured
    for longer than asked, until `WAVES` times as many are done as there are callers.
    """
    times: list[float] = []
    numbers = iter(range(1 << 40))
    started = time.monotonic()
    end = started + WARM_UP_SECONDS + seconds

    async def caller() -> None:
        while time.monotonic() < end or len(times) < (WAVES + 1) * CONCURRENCY:
            await send(next(numbers))
            times.append(time.monotonic() - started)

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    # While the last callers finish, batches are no longer full.
    steady = sorted(times)[:-CONCURRENCY]
    measured = np.array([t for t in steady if t >= WARM_UP_SECONDS])
    return float(np.polyfit(measured, np.arange(len(measured)), 1)[0])


async def loop_rate(backend: InProcessBackend, model: str, seconds: float) -> float:
    """Images per second of the loop in this process, encoded as PNG."""

    async def send(number: int) -> None:
        parameters = {**REQUESTS[model], "seed": number}
        await backend.run(Call(str(number), model, Task.GENERATE, parameters))

    return await saturate(send, seconds)


async def http_rate(address: str, model: str, seconds: float) -> float:
    """Images per second over HTTP, as PNG bytes."""
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    headers = {"accept": "image/png"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def send(number: int) -> None:
            body = {"model": model, **REQUESTS[model], "seed": number}
            async with session.post(f"{address}/v1/generate", json=body) as answer:
                answer.raise_for_status()
                await answer.read()

        return await saturate(send, seconds)


def measured(
    backend: InProcessBackend, address: str, model: str, rounds: int, seconds: float
) -> dict[str, float]:
    """One model's rates in several rounds."""
    engine = backend.registry.load(model).engine
    job = engine.jobs(Call("bench", model, Task.GENERATE, {**REQUESTS[model], "seed": 0}))[0]
    networks = BareNetworks(engine, job, seconds)
    found = []
    for number in range(rounds):
        Console().print(f"{model}: round {number + 1} of {rounds}")
        before = networks.rate(seconds / 4)
        loop = asyncio.run(loop_rate(backend, model, seconds))
        bare = (before + networks.rate(seconds / 4)) / 2
        found.append(Round(bare, loop, asyncio.run(http_rate(address, model, seconds))))
    return summary(found)


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--models", nargs="*", default=list(REQUESTS))
    parser.add_argument("--config", type=Path, default=ROOT / "deploy" / "serve.yaml")
    parser.add_argument(
        "--provenance", action="store_true", help="have HTTP sign its images, as it does by default"
    )
    options = parser.parse_args()
    machine = hardware.describe()
    backend = local_backend()
    with serving(options.config, provenance=options.provenance) as address:
        rates = {
            name: measured(backend, address, name, options.rounds, options.seconds)
            for name in options.models
        }
    backend.close()

    table = Table(title=f"images per second on {machine['processor']}, {machine['cores']} cores")
    for heading in ("model", "bare network", "loop", "HTTP", "loop / network", "HTTP / loop"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, rate in rates.items():
        table.add_row(name, *(f"{number:,.2f}" for number in list(rate.values())[:5]))
    Console().print(table)
    # Models that were not measured now keep what an earlier run on this hardware found.
    stamp = {"measured": machine["measured"], "rounds": options.rounds}
    benchmark = "throughput-signed" if options.provenance else "throughput"
    models = {**hardware.kept(benchmark).get("models", {})}
    models |= {name: {**stamp, **found} for name, found in rates.items()}
    result = {"machine": machine, "models": models}
    Console().print(f"kept in {hardware.keep(benchmark, result).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
