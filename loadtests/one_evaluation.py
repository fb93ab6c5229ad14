"""Models of one network evaluation over HTTP, beside peers that serve the same exported network.

``python -m loadtests.one_evaluation``. All servers are up at once and measured in turn, in rounds,
since machines drift: one and sixteen clients that wait for their answers, then Poisson arrivals at
shares of what Atelier did with sixteen. What counts is the median over rounds of ratios within a
round. Beside it, what HTTP adds to a lone request: the median latency over HTTP less that of the
same loop in this process.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict
from statistics import median
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.arrivals import poisson
from loadtests.pacing import Pace, Send, closed_loop, open_loop
from loadtests.peers.servers import Server, small_servers
from loadtests.service import ROOT
from services.core.job import Call, Task
from services.serving.in_process import InProcessBackend
from services.serving.local import local_backend

REQUESTS: Mapping[str, Mapping[str, Any]] = {
    "shapes-cgan": {"label": "star"},
    "shapes-vae": {},
    "digits-realnvp": {},
}
FEW, MANY = 1, 16
SHARES = (0.5, 0.8, 1.0, 1.5)
"""Of Atelier's own rate with `MANY` clients: the rates of arrivals."""
WARM_UP = 64
SEED = 5
TIMEOUT = aiohttp.ClientTimeout(total=120)
OURS = "atelier"
"""Names of our own servers begin with it; all others are peers."""

Round = dict[str, dict[str, Pace]]
"""By server and by what was done to it."""


@asynccontextmanager
async def sending(address: str, server: Server, model: str) -> AsyncIterator[Send]:
    """What sends a server requests, on connections that stay open."""
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"accept": "image/png, application/json"}
    async with aiohttp.ClientSession(
        timeout=TIMEOUT, connector=connector, headers=headers
    ) as session:

        async def send(number: int) -> bool:
            body = server.body({"model": model, **REQUESTS[model], "seed": number})
            try:
                async with session.post(address + server.path, json=body) as answer:
                    await answer.read()
                    return answer.status == 200
            except (aiohttp.ClientError, TimeoutError):
                return False

        yield send


def in_this_process(backend: InProcessBackend, model: str) -> Send:
    """What runs requests through the loop without HTTP."""

    async def send(number: int) -> bool:
        parameters = {**REQUESTS[model], "seed": number}
        await backend.run(Call(str(number), model, Task.GENERATE, parameters, provenance=False))
        return True

    return send


async def one_round(
    servers: Mapping[str, tuple[str, Server]],
    backend: InProcessBackend,
    model: str,
    seconds: float,
    number: int,
) -> Round:
    """Everything once, each server in turn; every other round in reverse order."""
    names = list(servers) if number % 2 == 0 else list(servers)[::-1]
    found: Round = {name: {} for name in names}
    lone = await closed_loop(in_this_process(backend, model), FEW, seconds)
    found["in process"] = {_clients(FEW): lone}
    for clients in (FEW, MANY):
        for name in names:
            async with sending(*servers[name], model) as send:
                await closed_loop(send, clients, min(1.0, seconds))
                found[name][_clients(clients)] = await closed_loop(send, clients, seconds)
    capacity = found[OURS][_clients(MANY)].rate
    for share in SHARES:
        arrivals = poisson(share * capacity, seconds, SEED + number)
        for name in names:
            async with sending(*servers[name], model) as send:
                found[name][_arriving(share)] = await open_loop(send, arrivals)
    return found


def _clients(count: int) -> str:
    return f"{count} client" if count == 1 else f"{count} clients"


def _arriving(share: float) -> str:
    return f"arrivals at {share:.0%}"


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over rounds, and how our best server stands to the best peer."""
    servers = {
        name: {what: _median([one[name][what] for one in rounds]) for what in rounds[0][name]}
        for name in sorted(rounds[0])
    }
    peers = [name for name in servers if not name.startswith(OURS) and name != "in process"]
    ratios = {}
    for ours in [name for name in servers if name.startswith(OURS)]:
        for clients in (_clients(FEW), _clients(MANY)):
            against = [
                one[ours][clients].rate / max(one[peer][clients].rate for peer in peers)
                for one in rounds
                if peers
            ]
            if against:
                ratios[f"{ours} over the best peer, {clients}"] = round(median(against), 3)
    lone = _clients(FEW)
    added = [one[OURS][lone].p50 - one["in process"][lone].p50 for one in rounds]
    return {
        "rounds": len(rounds),
        "ratios": ratios,
        "added_p50_ms": round(1000 * median(added), 2),
        "servers": servers,
    }


def _median(paces: Sequence[Pace]) -> dict[str, float | None]:
    """Of each number; a latency of nothing has none."""
    rows = [asdict(one) for one in paces]
    found = {name: median(row[name] for row in rows) for name in rows[0]}
    return {
        name: round(value, 5) if value != float("inf") else None for name, value in found.items()
    }


def measured(
    model: str,
    rounds: int,
    seconds: float,
    names: Sequence[str] | None,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Start every server of a model, measure them in turn, and stop them.

    Raises:
        RuntimeError: a server did not become ready, or does not answer with an image.
    """
    known = small_servers(model)
    chosen = {name: known[name] for name in (names or known)}
    backend = local_backend()
    backend.registry.load(model)
    with ExitStack() as stack:
        stack.callback(backend.close)
        up = {}
        for name, server in chosen.items():
            report(f"{model}: starting {name}")
            up[name] = (stack.enter_context(server.start()), server)
            if not asyncio.run(_warm(*up[name], model)):
                raise RuntimeError(f"{name} does not answer with an image of {model}")
        found = []
        for number in range(rounds):
            report(f"{model}: round {number + 1} of {rounds}")
            found.append(asyncio.run(one_round(up, backend, model, seconds, number)))
    return summary(found)


async def _warm(address: str, server: Server, model: str) -> bool:
    """Some requests that are not measured; whether all were answered."""
    async with sending(address, server, model) as send:
        return all([await send(number) for number in range(WARM_UP)])


def table(model: str, found: Mapping[str, Any]) -> Table:
    """One model's servers, rates and latencies."""
    shown = Table(title=f"{model}: answers per second, and latencies in ms (p50 / p99)")
    loads = [_clients(FEW), _clients(MANY), *map(_arriving, SHARES)]
    shown.add_column("server")
    for load in loads:
        shown.add_column(load, justify="right")
    for name, paces in found["servers"].items():
        shown.add_row(name, *(_cell(paces.get(load)) for load in loads))
    return shown


def _cell(pace: Mapping[str, float | None] | None) -> str:
    if pace is None:
        return ""
    p50, p99 = ("-" if pace[q] is None else f"{1000 * (pace[q] or 0):.1f}" for q in ("p50", "p99"))
    failed = f", {pace['failed']:.0f} failed" if pace["failed"] else ""
    return f"{pace['rate']:.0f} ({p50} / {p99}{failed})"


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--models", nargs="*", default=list(REQUESTS), choices=list(REQUESTS))
    parser.add_argument("--servers", nargs="*", help="those that are installed, if absent")
    options = parser.parse_args()
    if options.servers and OURS not in options.servers:
        parser.error(f"'{OURS}' takes part: rates of arrivals are shares of what it does")
    console, machine = Console(), hardware.describe()
    models = {**hardware.kept("one-evaluation").get("models", {})}
    for model in options.models:
        found = measured(model, options.rounds, options.seconds, options.servers, console.print)
        console.print(table(model, found))
        console.print(found["ratios"], f"HTTP adds {found['added_p50_ms']} ms to a lone request")
        models[model] = {"measured": machine["measured"], **found}
    result = {"machine": machine, "models": models}
    console.print(f"kept in {hardware.keep('one-evaluation', result).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
