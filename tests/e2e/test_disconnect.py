"""A client that leaves takes its work with it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from tests.e2e.asks import shown
from tests.e2e.running import Server, until

EVALUATIONS = "atelier_network_evaluations_total"
LONG = {"model": "shapes-ldm", "prompt": "a red star", "seed": 3, "steps": 1000, "n": 4}
SHORT = {"model": "shapes-ldm", "prompt": "a red star", "seed": 3, "steps": 4, "n": 2}


@pytest.mark.parametrize(
    "headers", [{}, {"x-request-disconnect-disabled": "?1"}], ids=["plain", "defiant"]
)
def test_a_client_that_leaves_frees_its_rows_within_a_step(
    server: Server, headers: Mapping[str, str]
):
    alone = shown(server.post("/v1/generate", SHORT).raise_for_status().json())
    before = server.total(EVALUATIONS, model="shapes-ldm")
    canceled = server.total("atelier_canceled_total", where="client")
    connection = server.begin("/v1/generate", LONG, headers)
    until(lambda: server.trajectories() == LONG["n"], "the request is being worked on")
    connection.close()
    left = time.monotonic()
    until(lambda: server.trajectories() == 0, "the rows are free")
    # The question itself, and the way through the proxy, take most of this on a busy machine.
    assert time.monotonic() - left < 2.0
    evaluations = server.total(EVALUATIONS, model="shapes-ldm")
    assert 0 < evaluations - before < LONG["steps"]
    time.sleep(0.5)
    assert server.total(EVALUATIONS, model="shapes-ldm") == evaluations
    assert server.total("atelier_canceled_total", where="client") == canceled + 1
    assert shown(server.post("/v1/generate", SHORT).raise_for_status().json()) == alone
