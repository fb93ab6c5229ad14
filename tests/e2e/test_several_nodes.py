"""The service on several nodes: spread over them, the same on each, whole again after a loss."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest

from tests.e2e.asks import Shown, raw, shown
from tests.e2e.cluster import Cluster
from tests.e2e.machines import Machine, lacking
from tests.e2e.running import Servers, until
from tests.postgres import binaries

pytestmark = [
    pytest.mark.skipif(not binaries(), reason="no PostgreSQL is installed"),
    pytest.mark.timeout(2400),  # three machines' processes may share two busy cores
]

ASK = {"model": "shapes-ldm", "prompt": "a green ring", "steps": 12}
SEEDS = 4
CLIENTS = 4
JOB = {**ASK, "steps": 200, "n": 2}
JOBS_OF_A_GATEWAY = 2
PATIENCE = 400.0
REFUSALS = ("queue_full", "unavailable", "deadline_unmeetable", "deadline_exceeded")
FINAL = ("succeeded", "failed", "canceled")


@pytest.fixture(scope="module")
def cluster(servers: Servers) -> Iterator[Cluster]:
    if why := lacking():
        pytest.skip(why)
    servers.close()
    found = Cluster()
    yield found
    found.close()


def ask(client: httpx.Client, seed: int) -> httpx.Response:
    return client.post("/v1/generate", json={**ASK, "seed": seed})


def images(client: httpx.Client) -> list[list[Shown]]:
    """What each seed gives."""
    return [shown(ask(client, seed).raise_for_status().json()) for seed in range(SEEDS)]


def test_every_node_but_the_head_has_its_replicas(cluster: Cluster):
    for deployment in ("gateway", "engines"):
        assert [len(node.replicas(deployment)) for node in cluster.nodes] == [1, 1]
        assert cluster.head.replicas(deployment) == []
    for node in cluster.nodes:
        with cluster.client(node) as client:
            until(lambda c=client: replicas(c) == 2, "the gateway knows both engines", PATIENCE)  # type: ignore[misc]


def replicas(client: httpx.Client) -> int:
    """Of the pool, as the node's gateway counts them."""
    (pool,) = client.get("/v1/status").raise_for_status().json()["pools"]
    found: int = pool["replicas"]
    return found


def test_a_seed_gives_the_same_pixels_whichever_node_makes_them(cluster: Cluster):
    clients = [cluster.client(node) for node in cluster.nodes]
    before = [cluster.evaluations(node) for node in cluster.nodes]
    expected = images(clients[0])

    def both_have_worked() -> bool:
        with ThreadPoolExecutor(2 * SEEDS) as crowd:
            sent = [(s, crowd.submit(ask, c, s)) for c in clients for s in range(SEEDS)]
        for seed, answer in sent:
            assert shown(answer.result().raise_for_status().json()) == expected[seed]
        now = [cluster.evaluations(node) for node in cluster.nodes]
        return all(now > before for now, before in zip(now, before, strict=True))

    until(both_have_worked, "every node has made images", PATIENCE)


def test_a_node_that_dies_takes_no_answer_and_no_job_with_it(cluster: Cluster):
    survivor, victim = cluster.nodes
    client = cluster.client(survivor)
    expected = images(client)
    jobs = [submit(client) for _ in range(2 * JOBS_OF_A_GATEWAY)]
    until(lambda: states(client, jobs) == {"running"}, "all jobs run", PATIENCE, pause=0.1)
    over = Event()

    def one_client(number: int) -> list[httpx.Response]:
        """Asks again and again until the loss is over, of a node that stays."""
        answers = []
        with cluster.client(survivor) as own:
            while not over.is_set():
                answers.append(ask(own, number))
        return answers

    with ThreadPoolExecutor(CLIENTS) as crowd:
        sent = [crowd.submit(one_client, number) for number in range(CLIENTS)]
        try:
            (raylet,) = [p for p in victim.processes() if "/raylet/raylet " in p.title]
            raylet.kill()
            until(lambda: not gone(victim), "its replicas are gone", PATIENCE, pause=0.5)
            done = [ended(client, job) for job in jobs]
            cluster.forget(victim)
            cluster.add()
            cluster.wait()
        finally:
            over.set()
        answered = [each.result() for each in sent]
    for seed, answers in enumerate(answered):
        assert answers
        for answer in answers:
            check(answer, expected[seed])
    assert [job["status"] for job in done] == ["succeeded"] * len(jobs)
    assert sum(job["attempts"] > 1 for job in done) >= JOBS_OF_A_GATEWAY
    assert [len(job["data"]) for job in done] == [JOB["n"]] * len(jobs)
    assert len({tuple(made(client, job)) for job in done}) == 1
    with cluster.client(cluster.nodes[-1]) as new:
        assert images(new) == expected
        assert [new.get(f"/v1/jobs/{job['id']}").json() for job in done] == done


def check(answer: httpx.Response, expected: list[Shown]) -> None:
    """It is the image, or says in the service's own words that it cannot be made now."""
    if answer.status_code == httpx.codes.OK:
        assert shown(answer.json()) == expected
        return
    assert answer.status_code in (429, 503, 504)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] in REFUSALS


def gone(machine: Machine) -> list[Any]:
    """Replicas that are left on a machine."""
    return machine.replicas("gateway") + machine.replicas("engines")


def submit(client: httpx.Client) -> str:
    body = {"task": "generate", "request": {**JOB, "seed": 5}}
    found: str = client.post("/v1/jobs", json=body).raise_for_status().json()["id"]
    return found


def states(client: httpx.Client, jobs: list[str]) -> set[str]:
    return {client.get(f"/v1/jobs/{job}").raise_for_status().json()["status"] for job in jobs}


def ended(client: httpx.Client, job: str) -> dict[str, Any]:
    """The job at its end."""

    def look() -> dict[str, Any] | None:
        answer = client.get(f"/v1/jobs/{job}")
        found: dict[str, Any] = answer.json() if answer.is_success else {}
        return found if found.get("status") in FINAL else None

    done: dict[str, Any] = until(look, f"{job} is done", PATIENCE, pause=0.5)
    return done


def made(client: httpx.Client, job: dict[str, Any]) -> list[bytes]:
    """The pixels of a job's images."""
    return [raw(client.get(row["url"]).raise_for_status().content) for row in job["data"]]
