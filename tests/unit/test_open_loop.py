"""Open-loop load: when requests leave, what is counted, and a run against a server that stalls."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadtests.arrivals import arrivals
from loadtests.open_loop.scenario import Scenario, drawn
from loadtests.open_loop.sender import Outcome, run, solo_seconds
from loadtests.open_loop.summary import summarize

SCENARIOS = sorted((Path(__file__).parents[2] / "loadtests" / "scenarios").glob("*.yaml"))
STALL_SECONDS = 0.8


@pytest.mark.parametrize(
    ("process", "burstiness", "expected"),
    [("poisson", 1.0, 1.0), ("gamma", 1.0, 1.0), ("gamma", 4.0, 4.0), ("gamma", 0.25, 0.25)],
)
def test_gaps_have_the_mean_and_the_spread_asked_for(process, burstiness, expected) -> None:
    times = arrivals(process, 50.0, 800.0, 3, burstiness=burstiness)
    gaps = [b - a for a, b in pairwise(times)]
    mean = statistics.fmean(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert statistics.pvariance(gaps) / mean**2 == pytest.approx(expected, rel=0.1)


def test_equal_gaps_and_the_same_process_stretched() -> None:
    assert arrivals("uniform", 4.0, 1.1, 0) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    slow, fast = arrivals("gamma", 1.0, 100.0, 5), arrivals("gamma", 10.0, 10.0, 5)
    assert fast == pytest.approx([at / 10 for at in slow])


@pytest.mark.parametrize("given", [{"rate": 0.0}, {"rate": 1.0, "burstiness": 0.0}])
def test_rates_and_burstiness_are_above_zero(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        arrivals("gamma", given["rate"], 1.0, 0, burstiness=given.get("burstiness", 1.0))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_scenarios_here_can_be_read_and_sent_again_alike(path: Path) -> None:
    scenario = Scenario.read(path)
    first, again = scenario.due(20.0), scenario.due(20.0)
    assert first == again
    assert {due.kind.name for due in first} == {kind.name for kind in scenario.mix}
    assert all(json.loads(due.body)["model"] for due in first)
    assert [due.at for due in first] == sorted(due.at for due in first)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rates": []}, "rates"),
        ({"speed": 1}, "speed"),
        ({"name": "No Name"}, "name"),
        ({"mix": []}, "mix"),
        ({"arrivals": {"process": "closed"}}, "process"),
    ],
)
def test_a_wrong_scenario_is_refused_with_the_place(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(_scenario().model_dump(mode="json") | change))
    with pytest.raises(ValueError, match=said):
        Scenario.read(path)


@pytest.mark.parametrize(
    "body", [{"choose": []}, {"between": [1]}, {"between": "12"}, {"image": ["a", 2]}]
)
def test_what_cannot_be_drawn_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="takes a list"):
        drawn({"seed": body}, random.Random(0))


def test_values_are_drawn_within_their_bounds() -> None:
    draw = random.Random(1)
    many = [
        drawn({"steps": {"between": [3, 5]}, "x": {"between": [0.0, 1]}}, draw) for _ in "x" * 50
    ]
    assert {one["steps"] for one in many} == {3, 4, 5}
    assert all(0 <= one["x"] <= 1 for one in many)


def _scenario(**changes: Any) -> Scenario:
    kind = {"name": "one", "body": {"n": 1}, "objective": {"seconds": 0.4, "share": 0.9}}
    return Scenario.model_validate(
        {"name": "test", "seconds": 1.0, "rates": [40.0], "mix": [kind]} | changes
    )


def test_counts_and_verdicts() -> None:
    rows = [(0.0, 0.0, 0.2, 200), (0.1, 0.3, 0.7, 200), (0.2, 0.2, 0.25, 429), (0.3, 0.3, 0.4, 500)]
    outcomes = [Outcome("one", due, sent, ended, s, 10) for due, sent, ended, s in rows]
    together, one = summarize(_scenario(), outcomes, {"one": 0.1})
    assert (one.due, one.answered, one.refused, one.failed, one.in_time) == (4, 2, 1, 1, 1)
    assert one.latency[50.0] == pytest.approx(0.4)  # of 0.2 and, from when it was due, 0.6
    assert one.refusal == pytest.approx(0.05)
    assert (one.held, together.held, one.goodput) == (False, False, 1.0)
    assert (one.late_sends, one.latest_send, one.trustworthy) == (1, pytest.approx(0.2), False)


def test_an_objective_may_follow_a_lone_request() -> None:
    kind = {"name": "one", "body": {}, "objective": {"times_solo": 5}}
    outcomes = [Outcome("one", 0.0, 0.0, 0.49, 200, 1)]
    assert summarize(_scenario(mix=[kind]), outcomes, {"one": 0.1})[1].held
    assert not summarize(_scenario(mix=[kind]), outcomes, {"one": 0.09})[1].held


class Stalling(BaseHTTPRequestHandler):
    """Answers at once, but for one request, behind which all others wait: as a full queue does."""

    turn = threading.Lock()
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with self.turn:
            type(self).count += 1
            if self.count == 15:
                time.sleep(STALL_SECONDS)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *told: Any) -> None:
        """Says nothing."""


@pytest.fixture
def stalling() -> Iterator[str]:
    Stalling.count = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stall_is_felt_by_all_that_were_due_meanwhile(stalling: str) -> None:
    scenario = _scenario()
    solo = asyncio.run(solo_seconds(stalling, scenario))
    outcomes = asyncio.run(run(stalling, scenario.due(40.0)))
    assert all(one.answered for one in outcomes)
    # A closed loop would have counted the stall once.
    assert sum(one.latency > STALL_SECONDS / 4 for one in outcomes) > 5
    assert not summarize(scenario, outcomes, solo)[0].held
