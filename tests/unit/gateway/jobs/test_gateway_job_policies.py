"""Policies judge jobs as they are submitted and as they are done; the audit log tells both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.gateway.audit_check import tail, verify
from tests.unit.gateway.jobs.asking import (
    ASK,
    GENERATE,
    HELD,
    PATIENCE,
    REFUSED,
    Headers,
    finished,
    submit,
    until,
)
from tests.unit.gateway.jobs.conftest import Held

REQUEST = {"model": "tiny-diffusion", "steps": 1, "seed": 3}


def ask(**fields: Any) -> dict[str, Any]:
    return {"task": "generate", "request": {**REQUEST, **fields}}


def bulk(**fields: Any) -> dict[str, Any]:
    return {"task": "bulk", "request": {"model": "tiny-diffusion", **fields}}


SAY = f"a {REFUSED[0]}\u200b{REFUSED[1:]}"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("/v1/jobs", ask(prompt=SAY)),
    "negative": ("/v1/jobs", ask(negative_prompt=SAY)),
    "common": ("/v1/jobs", bulk(common={"prompt": SAY}, n=3)),
    "grid": ("/v1/jobs", bulk(grid={"prompt": [*["a red circle"] * 150, SAY], "steps": [1]})),
    "list": ("/v1/jobs", bulk(requests=[*[{"prompt": "a red circle"}] * 150, {"prompt": SAY}])),
    "prediction": (
        "/v1/predictions",
        {"version": "tiny-diffusion", "input": {"prompt": SAY, "steps": 1}},
    ),
}


def lines(folder: Path, job_id: str) -> list[dict[str, Any]]:
    verify(folder / "audit")
    return [event for event in tail(folder / "audit", 1000) if event.get("job") == job_id]


def end_of(folder: Path, job_id: str) -> dict[str, Any]:
    """The line of a job's end, which is written a moment after it."""
    end = time.monotonic() + PATIENCE
    while not (found := [e for e in lines(folder, job_id) if e["event"].startswith("job.")]):
        assert time.monotonic() < end
        time.sleep(0.05)
    (line,) = found
    return line


@pytest.mark.parametrize("way", WAYS)
def test_what_a_policy_refuses_is_no_job(
    client: TestClient, owner: Headers, held: Held, folder: Path, way: str
) -> None:
    before = len(held.calls)
    path, body = WAYS[way]
    answer = client.post(path, json=body, headers=owner)
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert told.get("error", told)["code"] == "content_policy_violation"
    assert told.get("error", told)["param"] == "negative_prompt" if way == "negative" else "prompt"
    assert REFUSED not in answer.text
    assert client.get("/v1/jobs", headers=owner).json()["data"] == []
    assert len(held.calls) == before
    line = tail(folder / "audit", 1)[0]
    wanted = {"event": "request", "status": 400, "decision": "refuse", "policy": "refused"}
    assert {name: line[name] for name in wanted} == wanted


def test_what_a_policy_holds_is_made_and_kept_for_a_reviewer(
    client: TestClient, owner: Headers, folder: Path
) -> None:
    job = submit(client, owner, ask(prompt=f"a {HELD} circle"))
    done = finished(client, owner, job["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "held_for_review")
    assert done["artefacts"] == []
    assert done["device_seconds"] > 0
    review = done["error"]["review"]
    found = client.get(review["url"], headers=owner).json()
    assert (found["status"], len(found["images"])) == ("held", 1)
    request, end = lines(folder, job["id"])[0], end_of(folder, job["id"])
    assert (request["event"], request["status"], request["decision"]) == ("request", 202, "hold")
    wanted = {"event": "job.failed", "decision": "hold", "policy": "held", "review": review["id"]}
    assert end["device_seconds"] == done["device_seconds"]
    assert {name: end[name] for name in wanted} == wanted


def test_a_sample_that_is_held_costs_a_dataset_no_other(client: TestClient, owner: Headers) -> None:
    requests = [{"prompt": f"a {HELD} circle", "steps": 1}, {"prompt": "a circle", "steps": 1}]
    done = finished(client, owner, submit(client, owner, bulk(requests=requests))["id"])
    assert done["status"] == "succeeded"
    assert (done["data"][0]["samples"], done["data"][0]["failed"]) == (2, 1)
    assert len(client.get("/v1/reviews", headers=owner).json()["data"]) == 1


def test_a_job_that_succeeds_is_two_lines(client: TestClient, owner: Headers, folder: Path) -> None:
    job = submit(client, owner)
    done = finished(client, owner, job["id"])
    end = end_of(folder, job["id"])
    (request,) = [line for line in lines(folder, job["id"]) if line["event"] == "request"]
    assert (request["route"], request["status"]) == ("POST /v1/jobs", 202)
    assert (request["n"], request["seed"]) == (GENERATE["n"], GENERATE["seed"])
    wanted = {
        "event": "job.succeeded",
        "model": "tiny-diffusion",
        "task": "generate",
        "n": GENERATE["n"],
        "decision": "allow",
        "error": "",
        "owner": request["owner"],
        "device_seconds": done["device_seconds"],
    }
    assert {name: end[name] for name in wanted} == wanted
    assert not any("prompt" in name for name in end)


def test_failing_and_canceling_are_written_down(
    client: TestClient, owner: Headers, holding: Held, folder: Path
) -> None:
    canceled = submit(client, owner)
    client.delete(f"/v1/jobs/{canceled['id']}", headers=owner)
    assert end_of(folder, canceled["id"])["event"] == "job.canceled"
    late = submit(client, owner, {**ASK, "deadline_seconds": 0.3})
    end = end_of(folder, late["id"])
    assert (end["event"], end["error"]) == ("job.failed", "deadline_exceeded")


def test_a_rule_that_comes_after_a_job_was_accepted_holds_for_it_too(
    client: TestClient, owner: Headers, holding: Held, folder: Path
) -> None:
    running = [submit(client, owner) for _ in range(2)]
    for job in running:
        until(client, owner, job["id"], lambda j: j["status"] == "running")
    waiting = submit(client, owner, ask(prompt="a green square"))
    words = folder / "refused.txt"
    before = words.read_text()
    words.write_text(f"{before}square\n")
    try:
        holding.hold = False
        done = finished(client, owner, waiting["id"])
    finally:
        words.write_text(before)
    assert done["error"]["code"] == "content_policy_violation"
    end = end_of(folder, waiting["id"])
    assert (end["event"], end["decision"], end["policy"]) == ("job.failed", "refuse", "refused")
