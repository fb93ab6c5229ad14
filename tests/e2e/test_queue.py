"""A full queue refuses at once while work goes on; so does a deadline that cannot be met."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

import httpx
import pytest

from tests.e2e.asks import png, shown
from tests.e2e.running import Server, until

REFUSAL_SECONDS = 0.1
MEASUREMENTS = 15
ROUNDS = 5
"""Others may keep the machine busy for a while; a service that is slow is slow in every round."""

EVALUATIONS = "atelier_network_evaluations_total"
ENDLESS = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 1000, "n": 64}
"""More than a queue of 30 s takes, on any machine; an empty queue takes a single one."""
SMALL = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 10}
JUDGED = {
    "model": "shapes-vae",
    "images": [base64.b64encode(png(1, 64)).decode()],
    "samples": 400,
    "seed": 1,
}


@contextmanager
def full_queue(server: Server) -> Iterator[None]:
    """Hold the queue full with one endless request, and let go of it."""
    connection = server.begin("/v1/generate", ENDLESS)
    try:
        until(lambda: server.trajectories() >= ENDLESS["n"], "the queue is full")
        yield
    finally:
        connection.close()
        until(lambda: server.trajectories() == 0, "the queue is empty")


def refusal_seconds(client: httpx.Client) -> float:
    """Half of the refusals, as the client sees them, take no longer than this."""
    answers = [client.post("/v1/generate", json=SMALL) for _ in range(MEASUREMENTS)]
    for answer in answers:
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "queue_full"
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    return median(answer.elapsed.total_seconds() for answer in answers)


def test_a_full_queue_refuses_in_under_100_ms_while_work_goes_on(server: Server):
    with full_queue(server), server.client() as client:
        before = server.total(EVALUATIONS, model="shapes-ldm")
        rounds = (refusal_seconds(client) for _ in range(ROUNDS))
        quick = next((seconds for seconds in rounds if seconds < REFUSAL_SECONDS), None)
        assert quick is not None
        assert server.total(EVALUATIONS, model="shapes-ldm") > before
    assert server.post("/v1/generate", SMALL).status_code == 200


@pytest.mark.parametrize("server", ["apart"], indirect=True)
def test_of_a_flood_what_was_accepted_is_finished_and_the_rest_told_when_to_return(server: Server):
    with ThreadPoolExecutor(24) as crowd:
        flood = [crowd.submit(server.post, "/v1/likelihood", JUDGED) for _ in range(48)]
    answers = [each.result() for each in flood]
    accepted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(accepted) + len(refused) == len(answers)
    assert accepted
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    bounds = {answer.json()["data"][0]["log_likelihood"] for answer in accepted}
    assert len(bounds) == 1


def test_a_deadline_that_cannot_be_met_is_refused_before_any_work(server: Server):
    before = server.total(EVALUATIONS, model="shapes-ldm")
    impossible = {**SMALL, "steps": 1000, "n": 8, "deadline": 0.5}
    answer = server.post("/v1/generate", impossible)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_unmeetable"
    assert answer.elapsed.total_seconds() < impossible["deadline"] * 2
    assert server.total(EVALUATIONS, model="shapes-ldm") == before


def test_a_deadline_that_can_be_met_changes_nothing(server: Server):
    relaxed = server.post("/v1/generate", {**SMALL, "deadline": 60}).raise_for_status().json()
    unbound = server.post("/v1/generate", SMALL).raise_for_status().json()
    assert shown(relaxed) == shown(unbound)
