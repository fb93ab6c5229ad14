"""Images per second of each built-in model: the bare network, the loop in process, and over HTTP.

``make bench``, or ``python -m loadtests.throughput [--seconds 8] [--models ...]``. The three are
measured one after the other in one run and told as ratios, since machines differ and are shared.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
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

CONCURRENCY = 64
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
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
class Rates:
    """Images per second of one model."""

    network: float
    loop: float
    http: float

    def as_json(self) -> dict[str, float]:
        """With the ratios that matter."""
        return {
            "network_images_per_second": round(self.network, 2),
            "loop_images_per_second": round(self.loop, 2),
            "http_images_per_second": round(self.http, 2),
            "loop_over_network": round(self.loop / self.network, 3),
            "http_over_loop": round(self.http / self.loop, 3),
        }


def best_seconds_per_row(network: Network, rows: Callable[[int], dict[str, torch.Tensor]]) -> float:
    """The least time per row over batch sizes: the median of several evaluations of each."""
    best = float("inf")
    for size in BATCH_SIZES:
        inputs = rows(size)
        network(**inputs)
        times = []
        for _ in range(7):
            started = time.perf_counter()
            network(**inputs)
            times.append(time.perf_counter() - started)
        best = min(best, sorted(times)[len(times) // 2] / size)
    return best


def random_rows(network: Network) -> Callable[[int], dict[str, torch.Tensor]]:
    """Inputs of a network's own shapes and types, for any number of rows."""

    def make(count: int) -> dict[str, torch.Tensor]:
        return {
            name: torch.randn(count, *(side or 1 for side in spec.shape))
            if spec.dtype.is_floating_point
            else torch.zeros(count, *(side or 1 for side in spec.shape), dtype=spec.dtype)
            for name, spec in network.inputs.items()
        }

    return make


def network_rate(engine: Engine, job: Job[Any]) -> float:
    """Images per second of a model's networks alone, each at its best batch."""
    networks = engine.model.networks
    load = engine.workload(job)
    last = networks[{"gan": "generator", "flow": "inverse"}.get(engine.family, "decoder")]
    seconds = best_seconds_per_row(last, random_rows(last))
    if load.evaluations:
        denoiser = networks["denoiser"]
        row = best_seconds_per_row(denoiser, random_rows(denoiser))
        seconds += load.evaluations * load.rows * row
    return 1 / seconds


async def saturate(send: Callable[[int], Awaitable[None]], seconds: float) -> float:
    """Images per second with `CONCURRENCY` callers that never pause, after a warm-up."""
    done, counting = 0, False
    numbers = iter(range(1 << 40))
    end = time.monotonic() + seconds + 1.0

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < end:
            await send(next(numbers))
            done += counting

    callers = [asyncio.create_task(caller()) for _ in range(CONCURRENCY)]
    await asyncio.sleep(1.0)
    counting, started = True, time.monotonic()
    await asyncio.sleep(seconds)
    counting, elapsed = False, time.monotonic() - started
    rate = done / elapsed
    await asyncio.gather(*callers)
    return rate


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


def in_process(models: list[str], seconds: float) -> dict[str, tuple[float, float]]:
    """Rates of the bare networks and of the loop."""
    backend = local_backend()
    found = {}
    for name in models:
        model = backend.registry.load(name)
        call = Call("bench", name, Task.GENERATE, {**REQUESTS[name], "seed": 0})
        network = network_rate(model.engine, model.engine.jobs(call)[0])
        found[name] = network, asyncio.run(loop_rate(backend, name, seconds))
    backend.close()
    return found


def over_http(models: list[str], seconds: float, config: Path) -> dict[str, float]:
    """Rates over HTTP."""
    with serving(config) as address:
        return {name: asyncio.run(http_rate(address, name, seconds)) for name in models}


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--models", nargs="*", default=list(REQUESTS))
    parser.add_argument("--config", type=Path, default=ROOT / "deploy" / "serve.yaml")
    options = parser.parse_args()
    machine = hardware.describe()
    local = in_process(options.models, options.seconds)
    http = over_http(options.models, options.seconds, options.config)
    rates = {name: Rates(*local[name], http[name]) for name in options.models}

    table = Table(title=f"images per second on {machine['processor']}, {machine['cores']} cores")
    for heading in ("model", "bare network", "loop", "HTTP", "loop / network", "HTTP / loop"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, rate in rates.items():
        numbers = rate.as_json().values()
        table.add_row(name, *(f"{number:,.2f}" for number in numbers))
    Console().print(table)
    result = {"machine": machine, "models": {n: r.as_json() for n, r in rates.items()}}
    Console().print(f"kept in {hardware.keep('throughput', result).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
