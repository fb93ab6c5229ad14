"""``python -m loadtests.simulator compare | day | check``: see each command."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from loadtests import hardware
from loadtests.scaling import CAPACITY, draw_asks
from loadtests.simulator.events import Events
from loadtests.simulator.fleet import Fleet, Scaling
from loadtests.simulator.requests import Finished, Network, Request
from loadtests.simulator.routing import ROUTERS
from loadtests.simulator.sharing import SharingReplica
from loadtests.simulator.stepping import SteppingReplica
from loadtests.simulator.traffic import DAY, diurnal, mean_work, steady
from loadtests.sleeping import step_seconds
from services.runtime.cost import BATCH_SIZES, CostCurve

QUICK_DECODE = CostCurve({1: 1e-4, 8: 8e-4})
SLEEPING = Network(CostCurve({n: step_seconds(n) for n in BATCH_SIZES[:4]}), QUICK_DECODE)
"""What `loadtests.scaling` serves."""
MEASURED = {1: 0.0052, 8: 0.022, 32: 0.073}
"""Seconds of an evaluation of shapes-ldm on two cores, by rows (ADR 8)."""
SEED = 7


def stretched(factor: float) -> Network:
    """The measured curve with every second so many times as long: a larger model's."""
    points = {rows: factor * seconds for rows, seconds in MEASURED.items()}
    return Network(CostCurve(points), CostCurve({1: 1e-4 * factor, 8: 8e-4 * factor}))


def stepping(events: Events, network: Network, finished: Finished) -> SteppingReplica:
    """A replica evaluation by evaluation."""
    return SteppingReplica(events, network, finished)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every router, with one gateway and with several, at several loads; step by step."""
    rows = []
    for load in options.loads:
        rate = load * options.replicas / mean_work(SLEEPING.step)
        for gateways in (1, 4):
            for router in ROUTERS:
                fleet = Fleet(
                    SLEEPING,
                    stepping,
                    replicas=options.replicas,
                    router=router,
                    gateways=gateways,
                    seed=SEED,
                )
                found = fleet.run(steady(rate, options.seconds, SEED)).summary()
                rows.append({"load": load, "gateways": gateways, "router": router, **found})
                _show(rows[-1])
    return {"replicas": options.replicas, "seconds": options.seconds, "runs": rows}


def day(options: argparse.Namespace) -> dict[str, Any]:
    """A day whose traffic rises and falls, by routing and by what replicas are scaled by."""
    network = stretched(options.stretch)
    work = mean_work(network.step)
    rate = options.requests / DAY
    most = options.replicas
    rows = []
    for router, scaling in (
        ("ongoing_requests", Scaling(10, most, target_ongoing_requests=options.ongoing)),
        ("device_seconds", Scaling(10, most, target_ongoing_requests=options.ongoing)),
        ("device_seconds", Scaling(10, most, target_queue_seconds=options.queue * work)),
    ):
        began = time.process_time()
        fleet = Fleet(
            network,
            SharingReplica,
            replicas=max(10, round(0.3 * rate * work / 0.7)),
            router=router,
            gateways=4,
            scaling=scaling,
            seed=SEED,
        )
        found = fleet.run(diurnal(rate, DAY, SEED), until=DAY).summary()
        by = "ongoing_requests" if scaling.target_ongoing_requests else "queue_seconds"
        spent = round(time.process_time() - began, 1)
        rows.append({"router": router, "scaled_by": by, **found, "processor_seconds": spent})
        _show(rows[-1])
    return {
        "most_replicas": most,
        "request_device_seconds": round(work, 2),
        "stretch": options.stretch,
        "runs": rows,
    }


def check(options: argparse.Namespace) -> dict[str, Any]:
    """The same arrivals as `loadtests.scaling` sent to a real server, and how far off we are."""
    real = hardware.kept("scaling")
    if not real:
        raise SystemExit("there is no result of loadtests.scaling on this hardware")
    rows = []
    for run in real["runs"]:
        replicas, router = run["replicas"], run["routing"]
        asks = draw_asks(real["load"] * CAPACITY * replicas, real["seconds"])
        fleet = Fleet(SLEEPING, stepping, replicas=replicas, router=router, seed=options.seed)
        found = fleet.run(Request(ask.at, ask.n, ask.steps) for ask in asks).summary()
        measured = run["at_load"]
        errors = {
            name: round(found[name] / measured[name] - 1, 3)
            for name in ("p50", "p99", "p50_slowdown", "p99_slowdown")
        }
        rows.append({"replicas": replicas, "router": router, "simulated": found, "error": errors})
        print(replicas, router, {name: (measured[name], found[name]) for name in errors}, errors)
    return {"real": real["hardware"], "runs": rows}


def _show(row: dict[str, Any]) -> None:
    print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and keep what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compare", help=compare.__doc__)
    one.add_argument("--replicas", type=int, default=16)
    one.add_argument("--seconds", type=float, default=120.0)
    one.add_argument("--loads", type=float, nargs="+", default=[0.7, 0.85, 0.95])
    one = commands.add_parser("day", help=day.__doc__)
    one.add_argument("--replicas", type=int, default=1000, help="the most")
    one.add_argument("--requests", type=float, default=1e6, help="in a day, about")
    one.add_argument("--stretch", type=float, default=600.0, help="of the measured curve")
    one.add_argument("--queue", type=float, default=8.0, help="requests' work a replica holds")
    one.add_argument("--ongoing", type=float, default=8.0, help="requests a replica holds")
    one = commands.add_parser("check", help=check.__doc__)
    one.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    found = {"compare": compare, "day": day, "check": check}[options.command](options)
    kept = {"hardware": hardware.describe(), **found}
    print(hardware.keep(f"simulation-{options.command}", kept))


if __name__ == "__main__":
    main()
