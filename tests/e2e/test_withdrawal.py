"""A request is withdrawn from another connection, wherever it is answered and worked on."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.running import Server, Servers, until

EVALUATIONS = "atelier_network_evaluations_total"
LONG = {"model": "shapes-ldm", "prompt": "a red star", "seed": 3, "steps": 1000, "sampler": "ddim"}
REQUESTS = 8
"""That each is withdrawn by the very replica that answers it is a matter of luck: one in 256."""


def delete(server: Server, name: str) -> int:
    with server.client() as client:
        return client.delete(f"/v1/requests/{name}").status_code


def test_a_withdrawn_request_frees_its_rows_within_a_step(server: Server):
    before = server.total(EVALUATIONS, model="shapes-ldm")
    body = {**LONG, "n": 3}
    with ThreadPoolExecutor(1) as pool:
        name = {"x-request-id": "to-be-withdrawn"}
        asked = pool.submit(server.post, "/v1/generate", body, headers=name)
        until(lambda: server.trajectories() == 3, "the request is being worked on")
        assert delete(server, "to-be-withdrawn") == 204
        answer = asked.result()
    assert answer.status_code == 499
    assert answer.json()["error"]["code"] == "canceled"
    assert answer.headers.get_list("x-request-id") == ["to-be-withdrawn"]
    until(lambda: server.trajectories() == 0, "the rows are free")
    evaluations = server.total(EVALUATIONS, model="shapes-ldm")
    assert 0 < evaluations - before < LONG["steps"]
    time.sleep(0.5)
    assert server.total(EVALUATIONS, model="shapes-ldm") == evaluations
    assert delete(server, "to-be-withdrawn") == 404


def test_a_withdrawn_stream_says_so_at_its_end(server: Server):
    body = {**LONG, "response": "stream"}
    with server.client() as client, client.stream("POST", "/v1/generate", json=body) as answer:
        data = (line for line in answer.iter_lines() if line.startswith("data: "))
        name = json.loads(next(data).removeprefix("data: "))["request_id"]
        assert answer.headers["x-request-id"] == name
        assert delete(server, name) == 204
        *_, last = data
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "canceled"
    until(lambda: server.trajectories() == 0, "the rows are free")


def test_any_replica_of_the_gateway_withdraws_what_another_answers(servers: Servers):
    server = servers.running("several")
    names = [f"withdrawn-{i}" for i in range(REQUESTS)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        asked = [
            pool.submit(server.post, "/v1/generate", LONG, headers={"x-request-id": name})
            for name in names
        ]
        until(lambda: server.trajectories() == REQUESTS, "all are being worked on")
        assert [delete(server, name) for name in names] == [204] * REQUESTS
        assert [one.result().status_code for one in asked] == [499] * REQUESTS
    until(lambda: server.trajectories() == 0, "the rows are free")
    assert delete(server, "withdrawn-0") == 404
