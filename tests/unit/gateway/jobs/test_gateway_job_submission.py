"""What is accepted as a job, once, and what is refused before it is one."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.gateway.examples import JOB
from services.gateway.key_store import KeyStore
from tests.unit.gateway.jobs.asking import ASK, GENERATE, Headers, submit, until
from tests.unit.gateway.jobs.conftest import Held


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"task": "paint"}, "task"),
        ({"task": None}, "task"),
        ({"request": {**GENERATE, "stepz": 3}}, "stepz"),
        ({"request": {**GENERATE, "steps": 10**6}}, "steps"),
        ({"request": {**GENERATE, "n": 0}}, "n"),
        ({"request": {**GENERATE, "size": "64x64"}}, "size"),
        ({"request": {**GENERATE, "response": "stream"}}, "response"),
        ({"request": {**GENERATE, "deadline": 3}}, "deadline"),
        ({"request": {"seed": 1}}, "model"),
        ({"request": []}, "request"),
        ({"priority": 6}, "priority"),
        ({"priority": -1}, "priority"),
        ({"deadline_seconds": 1e9}, "deadline_seconds"),
        ({"ttl_seconds": 1e9}, "ttl_seconds"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_accepted(
    client: TestClient, owner: Headers, change: dict[str, Any], param: str
) -> None:
    answer = client.post("/v1/jobs", json={**ASK, **change}, headers=owner)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text
    assert client.get("/v1/jobs", headers=owner).json()["data"] == []


def test_other_refusals_are_those_of_the_route(
    client: TestClient, owner: Headers, keys: KeyStore
) -> None:
    def refusal(headers: Headers, task: str, **request: Any) -> tuple[int, str]:
        body = {"task": task, "request": {**GENERATE, **request}}
        answer = client.post("/v1/jobs", json=body, headers=headers)
        return answer.status_code, answer.json()["error"]["code"]

    assert refusal(owner, "generate", model="tiny-difusion") == (404, "model_not_found")
    only = {"scopes": ("likelihood",), "models": ("tiny-flow",)}
    narrow = {"authorization": f"Bearer {keys.create('narrow', **only).text}"}
    assert refusal(narrow, "generate") == (403, "forbidden")
    flow = {"model": "tiny-gan", "image": "AAAA"}
    body = {"task": "likelihood", "request": flow}
    assert client.post("/v1/jobs", json=body, headers=narrow).status_code == 403
    body = {"task": "likelihood", "request": {**flow, "image": "nonsense"}}
    answer = client.post("/v1/jobs", json=body, headers=owner)
    assert answer.json()["error"]["code"] in ("invalid_image", "unsupported_media_type")


def test_a_model_that_cannot_do_it_is_told_at_once(
    client: TestClient, owner: Headers, image: Callable[..., bytes]
) -> None:
    request = {"model": "tiny-gan", "image": base64.b64encode(image()).decode()}
    answer = client.post("/v1/jobs", json={"task": "likelihood", "request": request}, headers=owner)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unsupported_task")


def test_an_idempotency_key_makes_one_job_of_two_requests(
    client: TestClient, owner: Headers, stranger: Headers
) -> None:
    key = {"idempotency-key": "order-7"}
    first = client.post("/v1/jobs", json=ASK, headers={**owner, **key})
    assert "idempotent-replayed" not in first.headers
    shuffled = {"request": dict(reversed(GENERATE.items())), "task": "generate"}
    again = client.post("/v1/jobs", json=shuffled, headers={**owner, **key})
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    other = {**ASK, "request": {**GENERATE, "seed": 8}}
    reused = client.post("/v1/jobs", json=other, headers={**owner, **key})
    assert (reused.status_code, reused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    # Another owner's key of the same name is another key.
    elsewhere = client.post("/v1/jobs", json=other, headers={**stranger, **key})
    assert elsewhere.status_code == 202
    assert "idempotent-replayed" not in elsewhere.headers
    assert len(client.get("/v1/jobs", headers=owner).json()["data"]) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "caf\u00e9"])
def test_an_idempotency_key_is_short_and_printable(
    client: TestClient, owner: Headers, key: str
) -> None:
    headers = {**owner, "idempotency-key": key.encode("latin-1")}
    answer = client.post("/v1/jobs", json=ASK, headers=headers)  # type: ignore[arg-type]  # bytes
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "Idempotency-Key")


def test_a_refused_request_does_not_use_its_idempotency_key_up(
    client: TestClient, owner: Headers, holding: Held
) -> None:
    running = [submit(client, owner) for _ in range(2)]
    for job in running:
        until(client, owner, job["id"], lambda j: j["status"] == "running")
    waiting = [submit(client, owner) for _ in range(3)]
    keyed = {**owner, "idempotency-key": "later"}
    full = client.post("/v1/jobs", json=ASK, headers=keyed)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) >= 1
    for job in (*running, *waiting):
        assert client.delete(f"/v1/jobs/{job['id']}", headers=owner).status_code == 200
    assert client.post("/v1/jobs", json=ASK, headers=keyed).status_code == 202


def test_a_full_store_refuses_before_it_accepts_and_says_how_to_free_space(
    client: TestClient, owner: Headers, stranger: Headers
) -> None:
    big = {**ASK, "request": {**GENERATE, "n": 60}}
    answer = client.post("/v1/jobs", json=big, headers=owner)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "storage_quota_exceeded")
    assert "DELETE /v1/jobs/" in answer.json()["error"]["message"]
    assert client.get("/v1/jobs", headers=owner).json()["data"] == []
    # Others have their own room.
    assert client.post("/v1/jobs", json=ASK, headers=stranger).status_code == 202


@pytest.mark.parametrize("name", list(JOB))
def test_the_examples_are_accepted_as_printed(
    client: TestClient, owner: Headers, name: str
) -> None:
    """But for the model's name, which this catalog does not know."""
    body = {**JOB[name], "request": {**JOB[name]["request"], "model": "tiny-flow"}}
    submit(client, owner, body)


def test_the_routes_are_described_with_examples(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    described = {
        (method, path)
        for path, routes in paths.items()
        for method in routes
        if path.startswith("/v1/jobs")
    }
    assert described >= {
        ("post", "/v1/jobs"),
        ("get", "/v1/jobs"),
        ("get", "/v1/jobs/{job_id}"),
        ("delete", "/v1/jobs/{job_id}"),
        ("get", "/v1/jobs/{job_id}/events"),
        ("get", "/v1/jobs/{job_id}/artefacts/{index}"),
    }
    body = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["$ref"].endswith("/JobSubmission")
    assert body["examples"]
