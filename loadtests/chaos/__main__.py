"""``python -m loadtests.chaos [FAULT ...]``: break things under load, and weigh what it cost.

The exit status is 0 when every fault that was tried kept its promises, 1 when one did not. A fault
that this machine cannot try is reported as not run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import closing
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.chaos.accounting import Verdict, judge
from loadtests.chaos.fault import Fault
from loadtests.chaos.faults import FAULTS
from loadtests.chaos.load import RATE, Load
from loadtests.chaos.stage import Stage

CALM_SECONDS = 6.0
"""Load before anything breaks, and without a failure before the load may end."""
LONGEST_SECONDS = 150.0
"""After the fault is over, the load goes on for at most so long."""


async def tried(fault: Fault, stage: Stage, rate: float) -> Verdict:
    """One fault under load, from calm to calm, and what it cost."""
    load = Load(stage.url, f"{fault.name}-{time.time_ns():x}", rate=rate)
    async with load.running():
        await asyncio.sleep(CALM_SECONDS)
        injected = load.now()
        try:
            await asyncio.to_thread(fault.inject, stage)
            if fault.seconds:
                await asyncio.sleep(injected + fault.seconds - load.now())
        finally:
            await asyncio.to_thread(fault.heal, stage)
        healed = load.now()
        await asyncio.sleep(CALM_SECONDS)
        while not load.calm_for(CALM_SECONDS) and load.now() < healed + LONGEST_SECONDS:
            await asyncio.sleep(0.5)
    jobs = await load.settled()
    verdict = judge(
        fault.bounds,
        load.written.requests,
        load.written.submissions,
        jobs,
        injected=injected,
        healed=healed,
    )
    return verdict.but(fault.found())


def run(chosen: list[type[Fault]], rate: float, console: Console) -> dict[str, dict[str, Any]]:
    """All of them, those of one shape on one stage; results by name."""
    results: dict[str, dict[str, Any]] = {}
    faults = [kind() for kind in chosen]
    for fault in faults:
        if why := fault.lacking():
            results[fault.name] = {"about": fault.about, "not_run": why}
    ready = [fault for fault in faults if fault.name not in results]
    for _, group in groupby(ready, key=lambda f: (f.shape, f.name if f.alone else "")):
        together = list(group)
        console.print(f"starting a server for {', '.join(fault.name for fault in together)}")
        results |= on_one_stage(together, rate, console)
    return results


def on_one_stage(faults: list[Fault], rate: float, console: Console) -> dict[str, dict[str, Any]]:
    """Faults on one server, one after the other; what this harness cannot do breaks no other."""
    results: dict[str, dict[str, Any]] = {}
    try:
        with closing(Stage(faults[0].shape, faults)) as stage:
            for fault in faults:
                results[fault.name] = on_the_stage(fault, stage, rate, console)
                console.print(line(fault.name, results[fault.name]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other results are kept
        console.print_exception()
        for fault in faults:
            results.setdefault(fault.name, harness_failed(fault, error))
    return results


def on_the_stage(fault: Fault, stage: Stage, rate: float, console: Console) -> dict[str, Any]:
    """One fault's result, also where the harness could not try it: others come after it."""
    try:
        verdict = asyncio.run(tried(fault, stage, rate))
    except Exception as error:  # noqa: BLE001 - as above
        console.print_exception()
        return harness_failed(fault, error)
    return {"about": fault.about, **verdict.as_json()}


def harness_failed(fault: Fault, error: Exception) -> dict[str, Any]:
    """A result that is neither kept nor broken, and counts as broken."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return {"about": fault.about, "not_run": f"the harness failed: {reason}", "held": False}


def line(name: str, result: dict[str, Any]) -> str:
    """One fault's result for whoever watches."""
    if why := result.get("not_run"):
        return f"{name}: not run: {why}"
    said = "kept" if result["held"] else "; ".join(result["broken_promises"])
    return (
        f"{name}: {said}. {result['failed_share']:.1%} failed, recovered after "
        f"{result['recovery_seconds']:.1f} s, {result['jobs']} jobs, {result['lost']} lost"
    )


def table(results: dict[str, dict[str, Any]]) -> Table:
    """For people."""
    found = Table(title="faults under open-loop load")
    for heading in ("fault", "failed", "how", "outage", "jobs", "lost", "twice", "retaken", ""):
        found.add_column(heading)
    for name, one in results.items():
        if "not_run" in one:
            found.add_row(name, *[""] * 7, f"not run: {one['not_run']}")
            continue
        found.add_row(
            name,
            f"{one['failed_share']:.1%}",
            ", ".join(f"{count} {how}" for how, count in one["failed"].items()),
            f"{one['outage_seconds']:.1f} s",
            *(str(one[column]) for column in ("jobs", "lost", "twice", "retaken")),
            "kept" if one["held"] else "\n".join(one["broken_promises"]),
        )
    return found


def main() -> int:
    """Try the faults, print and keep what was found."""
    names = {kind.name: kind for kind in FAULTS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--rate", type=float, default=RATE, help="requests per second")
    options = parser.parse_args()
    if unknown := sorted(set(options.faults) - names.keys()):
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = [kind for kind in FAULTS if not options.faults or kind.name in options.faults]
    console, machine, started = Console(), hardware.describe(), time.monotonic()
    results = run(chosen, options.rate, console)
    console.print(table(results))
    minutes = round((time.monotonic() - started) / 60, 1)
    # A part of the faults takes the place of its earlier results alone.
    earlier = hardware.kept("chaos").get("faults", {}) if options.faults else {}
    result = {
        "machine": machine,
        "requests_per_second": options.rate,
        "minutes": minutes,
        "faults": {**earlier, **results},
    }
    console.print(f"kept in {hardware.keep('chaos', result).name}")
    return 0 if all(one.get("held", True) for one in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
