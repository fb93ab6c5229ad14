"""What clients can say in headers, and what they cannot."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.e2e.running import Server

ASK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 2}
REFUSED = {
    "unknown route": ("GET", "/v1/nothing", None, 404),
    "unknown model": ("POST", "/v1/generate", {"model": "nothing"}, 404),
    "wrong type": ("POST", "/v1/generate", {**ASK, "steps": "many"}, 422),
    "too large": ("POST", "/v1/generate", {**ASK, "prompt": "x" * (33 << 20)}, 413),
    "wrong method": ("GET", "/v1/generate", None, 405),
}


def ids_of(answer: httpx.Response) -> list[str]:
    return answer.headers.get_list("x-request-id")


def test_a_client_cannot_shorten_the_time_a_request_may_take(server: Server):
    long = {**ASK, "steps": 100, "n": 2}
    answer = server.post("/v1/generate", long, headers={"x-request-timeout-seconds": "0.01"})
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() > 0.01


def test_an_answer_carries_one_request_id_of_the_services_own_making(server: Server):
    first, second = (server.post("/v1/generate", ASK) for _ in range(2))
    assert len(ids_of(first)) == len(ids_of(second)) == 1
    assert ids_of(first) != ids_of(second)


def test_a_well_formed_id_of_the_client_comes_back_as_the_only_one(server: Server):
    answer = server.post("/v1/generate", ASK, headers={"x-request-id": "mine-1.2_3"})
    assert ids_of(answer) == ["mine-1.2_3"]


@pytest.mark.parametrize("malformed", ["a b", "x" * 65, '"quoted"', "<script>"])
def test_a_malformed_id_of_the_client_is_replaced(server: Server, malformed: str):
    found = ids_of(server.post("/v1/generate", ASK, headers={"x-request-id": malformed}))
    assert len(found) == 1
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", found[0])


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_carries_the_clients_id_once(server: Server, what: str):
    method, path, body, status = REFUSED[what]
    answer = httpx.request(
        method, server.url + path, json=body, headers={"x-request-id": "mine"}, timeout=60
    )
    assert answer.status_code == status
    assert ids_of(answer) == ["mine"]
