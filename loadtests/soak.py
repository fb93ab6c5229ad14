"""``python -m loadtests.soak --minutes 30``: whether any process holds more and more memory.

A server of its own answers a mix of requests (``scenarios/soak.yaml``) and works on jobs, while
what each of its processes holds (PSS) is written down. After a warm-up a line is drawn through it:
the slope is to be below a megabyte per hour. A slope that is too uncertain to say is reported as
that; it takes a longer run. The exit status is 1 where a process surely grows, or a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.open_loop.scenario import Scenario
from loadtests.open_loop.sender import Outcome, run
from loadtests.service import ROOT, atelier, running, wait_until_ready
from loadtests.slope import MEGABYTE, Slope, slope
from services.serving.environment import free_ports
from tests.e2e.processes import Process, tree

SCENARIO = ROOT / "loadtests" / "scenarios" / "soak.yaml"
SAMPLE_SECONDS = 5.0
JOB_SECONDS = 10.0
MOST = 1.0
"""Megabytes per hour that a process may gain."""
JOB = {"task": "generate", "request": {"model": "digits-ddpm", "steps": 10, "n": 2}}


@dataclass
class Held:
    """What one process held."""

    title: str
    seconds: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def after(self, warm: float) -> tuple[list[float], list[float]]:
        """Samples after so many seconds."""
        kept = [(at, size) for at, size in zip(self.seconds, self.sizes, strict=True) if at > warm]
        return [at for at, _ in kept], [size for _, size in kept]


def short(title: str) -> str:
    """A process by a name that fits a table."""
    for word in title.split():
        if word.startswith("ray::"):
            return word
    words = [Path(word).name for word in title.split() if not word.startswith("-")]
    known = [w for w in words if not w.startswith("python")]
    return " ".join(known[:2]) or title[:40]


@contextmanager
def watching(root: int, start: float) -> Iterator[dict[Process, Held]]:
    """What every process below a root holds, as long as this is open."""
    found: dict[Process, Held] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(SAMPLE_SECONDS):
            now = time.monotonic() - start
            for process in tree(root):
                size = process.memory
                if size:
                    held = found.setdefault(process, Held(short(process.title)))
                    held.seconds.append(now)
                    held.sizes.append(size)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


@contextmanager
def jobs(url: str) -> Iterator[Counter[str]]:
    """A job now and then, fetched when it is done; how many came to which end."""
    ends: Counter[str] = Counter()
    done = threading.Event()

    def submit() -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            while not done.wait(JOB_SECONDS):
                try:
                    job = client.post("/v1/jobs", json=JOB).raise_for_status().json()
                    while job["status"] in ("queued", "running") and not done.wait(0.5):
                        job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
                    for row in job["data"] or ():
                        client.get(row["url"]).raise_for_status()
                except httpx.HTTPError as error:
                    ends[type(error).__name__] += 1
                else:
                    ends[job["status"]] += 1

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    try:
        yield ends
    finally:
        done.set()
        thread.join()


def kept(held: Held, line: Slope, warm: float) -> dict[str, Any]:
    """One process, for the file."""
    _, sizes = held.after(warm)
    every = max(1, len(held.sizes) // 60)
    return {
        "process": held.title,
        "megabytes_after_warm_up": round(sizes[0] / MEGABYTE, 2),
        "megabytes_at_the_end": round(sizes[-1] / MEGABYTE, 2),
        **line.as_json(),
        "found": line.found(MOST),
        "megabytes": [round(size / MEGABYTE, 2) for size in held.sizes[::every]],
        "seconds": [round(at) for at in held.seconds[::every]],
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """For people."""
    title = f"memory after warm-up: below {MOST:g} MB/h?"
    found = Table("process", "MB", "MB/h", "standard error", "found", title=title)
    for row in rows:
        found.add_row(
            row["process"],
            f"{row['megabytes_at_the_end']:.1f}",
            str(row["megabytes_per_hour"]),
            str(row["standard_error"]),
            row["found"],
        )
    return found


def count(outcomes: list[Outcome]) -> dict[str, int]:
    """Requests by how they ended."""
    ends = Counter(
        "answered" if one.answered else "refused" if one.refused else "failed" for one in outcomes
    )
    return {name: ends[name] for name in ("answered", "refused", "failed")}


def main() -> int:
    """Soak, print, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, help="minutes; a third of all by default")
    parser.add_argument("--rate", type=float, help="requests per second, instead of the scenario's")
    parser.add_argument("--config", type=Path, default=ROOT / "deploy" / "serve.yaml")
    options = parser.parse_args()
    seconds = options.minutes * 60
    warm = seconds / 3 if options.warm_up is None else options.warm_up * 60
    scenario = Scenario.read(SCENARIO).model_copy(update={"seconds": seconds})
    rate = options.rate or scenario.rates[0]
    console, machine, port = Console(), hardware.describe(), free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with running(atelier(options.config, port)) as server:
        wait_until_ready(f"{url}/readyz", server)
        start = time.monotonic()
        with watching(server.pid, start) as processes, jobs(url) as ends:
            outcomes = asyncio.run(run(url, scenario.due(rate)))
    lines = {p: slope(*held.after(warm)) for p, held in processes.items()}
    long_lived = [p for p, held in processes.items() if len(held.after(warm)[0]) > 1]
    rows = [kept(processes[p], lines[p], warm) for p in long_lived]
    rows.sort(key=lambda row: -row["megabytes_at_the_end"])
    requests = count(outcomes)
    console.print(table(rows))
    console.print(f"requests: {requests}; jobs: {dict(ends)}")
    result = {
        "machine": machine,
        "minutes": options.minutes,
        "warm_up_minutes": warm / 60,
        "requests_per_second": rate,
        "requests": requests,
        "jobs": dict(ends),
        "most_megabytes_per_hour": MOST,
        "processes": rows,
    }
    console.print(f"kept in {hardware.keep('soak', result).name}")
    bad = any(row["found"] == "grows" for row in rows) or requests["failed"]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
