"""``python -m loadtests.open_loop SCENARIO.yaml``: drive a server, print and keep a report.

Without ``--url`` it starts a server of its own with ``--config``. The exit status is 0 when every
objective held at every rate that was to be held, 1 when one was missed, 2 when this client could
not keep up or the scenario is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from loadtests import hardware
from loadtests.open_loop.report import RunAtRate, plot, table
from loadtests.open_loop.scenario import Scenario
from loadtests.open_loop.sender import run, solo_seconds
from loadtests.open_loop.summary import summarize
from loadtests.service import ROOT, serving

MISSED, INVALID = 1, 2


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("--url", help="of a server that runs; else one is started")
    parser.add_argument("--config", type=Path, default=ROOT / "deploy" / "serve.yaml")
    parser.add_argument("--rates", type=float, nargs="+", help="instead of the scenario's")
    parser.add_argument("--seconds", type=float, help="for each rate, instead of the scenario's")
    parser.add_argument("--out", type=Path, default=hardware.RESULTS, help="folder of the report")
    return parser.parse_args()


@contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    """The address to send to."""
    if options.url:
        yield options.url.rstrip("/")
        return
    with serving(options.config) as address:
        yield address


def batches(url: str) -> tuple[float, float] | None:
    """Rows and batches evaluated so far, where the server tells."""
    try:
        page = httpx.get(f"{url}/metrics").raise_for_status().text
    except httpx.HTTPError:
        return None
    sums = {"atelier_batch_rows_sum": 0.0, "atelier_batch_rows_count": 0.0}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in sums:
                sums[sample.name] += sample.value
    rows, count = sums.values()
    return rows, count


def run_rates(url: str, scenario: Scenario, console: Console) -> tuple[list[RunAtRate], Any]:
    """Every rate in turn, from an idle server."""
    solo = asyncio.run(solo_seconds(url, scenario))
    console.print({name: f"{seconds:.3f} s alone" for name, seconds in solo.items()})
    runs: list[RunAtRate] = []
    for rate in scenario.rates:
        before = batches(url)
        outcomes = asyncio.run(run(url, scenario.due(rate)))
        after = batches(url)
        rows = None
        if before and after and after[1] > before[1]:
            rows = (after[0] - before[0]) / (after[1] - before[1])
        runs.append((rate, summarize(scenario, outcomes, solo), rows))
        console.print(f"{rate:g}/s done")
    return runs, solo


def main() -> int:
    """Run the scenario."""
    options, console = arguments(), Console()
    try:
        scenario = Scenario.read(options.scenario)
    except (ValueError, OSError) as error:
        console.print(f"[red]{error}[/red]")
        return INVALID
    changes = {name: v for name in ("rates", "seconds") if (v := getattr(options, name))}
    scenario = scenario.model_copy(update=changes)
    machine = hardware.describe()
    with server(options) as url:
        runs, solo = run_rates(url, scenario, console)
    console.print(table(scenario.name, runs))
    kept = {
        "machine": machine,
        "scenario": scenario.model_dump(mode="json"),
        "solo_seconds": {name: round(seconds, 5) for name, seconds in solo.items()},
        "rates": [
            {
                "rate": rate,
                "batch_rows": rows and round(rows, 3),
                "kinds": [one.as_json() for one in summaries],
            }
            for rate, summaries, rows in runs
        ],
    }
    path = hardware.keep(f"open-loop-{scenario.name}", kept, options.out)
    plot(scenario.name, runs, path.with_suffix(".png"))
    console.print(f"kept in {path} and {path.with_suffix('.png').name}")
    totals = [summaries[0] for _, summaries, _ in runs]
    if not all(one.trustworthy for one in totals):
        return INVALID
    return 0 if all(one.held for one in totals) else MISSED


if __name__ == "__main__":
    sys.exit(main())
