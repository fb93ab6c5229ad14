"""A version of a model is asked for by its digest, and answers say theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.core.job import Answer, Call

DIGEST = "ab12cd34" * 8
PINNED = f"shapes-ldm@{DIGEST[:8]}"


@pytest.fixture
def versioned(backend: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend, which has a model of a version and says so in its answers."""
    found = replace(backend.catalog["shapes-ldm"], digest=DIGEST)
    backend.catalog |= {"shapes-ldm": found, PINNED: found}
    run = backend.run

    async def saying_so(call: Call) -> Answer:
        return replace(await run(call), versions={call.model: DIGEST})

    monkeypatch.setattr(backend, "run", saying_so)
    return backend


def test_a_call_names_the_model_and_beside_it_the_version(
    client: TestClient, versioned: Any
) -> None:
    body = {"model": PINNED, "prompt": "a star", "seed": 3}
    answer = client.post("/v1/generate", json=body).json()
    assert (answer["model"], answer["digest"]) == ("shapes-ldm", DIGEST)
    call = versioned.calls[-1]
    assert (call.model, call.version) == ("shapes-ldm", DIGEST), "policies and keys see the name"
    client.post("/v1/generate", json={**body, "model": "shapes-ldm"})
    assert versioned.calls[-1].version == ""


def test_raw_images_say_it_in_a_header(client: TestClient, versioned: Any) -> None:
    del versioned
    body = {"model": PINNED, "prompt": "a star"}
    answer = client.post("/v1/generate", json=body, headers={"accept": "image/png"})
    assert answer.headers["x-atelier-digest"] == DIGEST
    assert answer.headers["x-atelier-model"] == "shapes-ldm"


def test_models_say_their_digest_and_are_found_by_it(client: TestClient, versioned: Any) -> None:
    del versioned
    for name in ("shapes-ldm", PINNED):
        assert client.get(f"/v1/models/{name}").json()["digest"] == DIGEST


def test_metrics_know_the_model_and_no_version(client: TestClient, versioned: Any) -> None:
    del versioned
    client.post("/v1/generate", json={"model": PINNED, "prompt": "a star"})
    assert 'model="shapes-ldm"' in client.get("/metrics").text
    assert DIGEST[:8] not in client.get("/metrics").text


@pytest.mark.parametrize("digits", ["", "12", "ABCDEF12", "../../etc"])
def test_what_is_no_digest_is_not_found(client: TestClient, digits: str) -> None:
    body = {"model": f"shapes-ldm@{digits}", "prompt": "a star"}
    answer = client.post("/v1/generate", json=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
