"""MLPerf's load generator drives the service over HTTP: SingleStream, Server and Offline.

``pip install mlcommons-loadgen``, then ``python -m loadtests.mlperf [--scenarios ...]``. LoadGen
decides when queries leave, keeps the clock and judges validity by its own rules; this file only
turns its queries into requests. A run is short here, and no submission to MLPerf.
"""

from __future__ import annotations

import argparse
import json
import queue
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlperf_loadgen as lg
from rich.console import Console
from rich.table import Table

from loadtests import hardware
from loadtests.service import ROOT, serving
from loadtests.traffic import mixed

SCENARIOS = ("SingleStream", "Server", "Offline")
SAMPLES = 256
CONNECTIONS = 64
NANOSECONDS = 1e9
SEED = 11


class Requests:
    """Sends what LoadGen issues, from so many connections, and tells it of every answer."""

    def __init__(self, url: str, bodies: Sequence[dict[str, Any]]) -> None:
        self.failed = 0
        self._url, self._bodies = url, bodies
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work) for _ in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's call: take queries and come back at once."""
        for sample in samples:
            self._waiting.put(sample)

    def close(self) -> None:
        """End the threads."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with httpx.Client(base_url=self._url, timeout=300) as client:
            while (sample := self._waiting.get()) is not None:
                try:
                    body = self._bodies[sample.index]
                    client.post("/v1/generate", json=body).raise_for_status()
                except httpx.HTTPError:
                    self.failed += 1  # LoadGen waits for every query: it must hear of this one too
                lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])


def settings(scenario: str, options: argparse.Namespace) -> Any:
    """LoadGen's settings for a scenario."""
    found = lg.TestSettings()
    found.scenario = getattr(lg.TestScenario, scenario)
    found.mode = lg.TestMode.PerformanceOnly
    found.min_duration_ms = int(options.seconds * 1000)
    found.min_query_count = 1
    found.server_target_qps = options.rate
    found.server_target_latency_ns = int(options.latency * NANOSECONDS)
    found.server_target_latency_percentile = 0.99
    found.offline_expected_qps = options.rate
    return found


def run(scenario: str, url: str, options: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """One scenario: what LoadGen's summary says, and how many requests failed."""
    bodies = [{"model": options.model, **one.body()} for one in mixed(SAMPLES, SEED)]
    requests = Requests(url, bodies)
    sut = lg.ConstructSUT(requests.issue, lambda: None)
    library = lg.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)
    output = lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(logs), False
    log = lg.LogSettings()
    log.log_output, log.enable_trace = output, False
    try:
        lg.StartTestWithLogSettings(sut, library, settings(scenario, options), log)
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)
        requests.close()
    return {**summary(logs / "mlperf_log_summary.txt"), "failed": requests.failed}


def summary(path: Path) -> dict[str, Any]:
    """The figures of LoadGen's summary, under its own names."""
    lines = re.findall(r"^([^:\n]+?)\s*:\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.strip(): _number(value.strip()) for name, value in lines}


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    """The address to send to."""
    if options.url:
        yield options.url.rstrip("/")
        return
    with serving(ROOT / "deploy" / "serve.yaml") as address:
        yield address


def main() -> None:
    """Run the scenarios, print and keep what LoadGen found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument("--url", help="of a server that runs; else one is started")
    parser.add_argument("--model", default="shapes-ldm")
    parser.add_argument("--seconds", type=float, default=30.0, help="at least, of each scenario")
    parser.add_argument("--rate", type=float, default=1.0, help="queries per second of Server")
    parser.add_argument("--latency", type=float, default=3.0, help="Server's bound, in seconds")
    options = parser.parse_args()
    console, machine, found = Console(), hardware.describe(), {}
    with server(options) as url:
        body = {"model": options.model, **mixed(1, SEED)[0].body()}
        httpx.post(f"{url}/v1/generate", json=body, timeout=300).raise_for_status()
        for scenario in options.scenarios:
            with tempfile.TemporaryDirectory() as logs:
                found[scenario] = run(scenario, url, options, Path(logs))
    table = Table("scenario", "result", "validity", "failed", title="by MLPerf's LoadGen")
    for scenario, figures in found.items():
        named = (key for key in figures if re.search(r"samples per second|90.*latency", key, re.I))
        main_figure = "; ".join(f"{key} {figures[key]}" for key in named)
        table.add_row(scenario, main_figure, str(figures.get("Result is")), str(figures["failed"]))
    console.print(table)
    result = {"machine": machine, "model": options.model, "scenarios": found}
    console.print(f"kept in {hardware.keep('mlperf', result).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
