"""Durable jobs over HTTP: followed, fetched, canceled, removed; each owner's own."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from services.gateway.key_store import KeyStore
from tests.unit.gateway.jobs.asking import (
    ASK,
    GENERATE,
    PATIENCE,
    Headers,
    events,
    finished,
    submit,
    until,
)
from tests.unit.gateway.jobs.conftest import Held


def test_a_job_makes_the_images_that_the_route_itself_makes(
    client: TestClient, owner: Headers
) -> None:
    answer = client.post("/v1/jobs", json=ASK, headers=owner)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["retry-after"] == "1"
    assert job["status"] in ("queued", "running")
    done = finished(client, owner, job["id"])
    assert done["status"] == "succeeded"
    assert (done["progress"], done["rows_done"], done["attempts"]) == (1.0, 2, 1)
    direct = client.post("/v1/generate", json=GENERATE, headers=owner).json()
    for row, made in enumerate(direct["data"]):
        assert done["data"][row]["seed"] == made["seed"]
        image = client.get(done["data"][row]["url"], headers=owner)
        assert image.content == base64.b64decode(made["b64_json"])
    assert done["timings"]["step"] > 0
    assert done["expires"] > done["finished"]


def test_an_artefact_is_a_file_and_nothing_that_a_browser_would_run(
    client: TestClient, owner: Headers
) -> None:
    body = {"task": "generate", "request": {**GENERATE, "n": 1, "output_format": "webp"}}
    done = finished(client, owner, submit(client, owner, body)["id"])
    (file,) = done["artefacts"]
    answer = client.get(file["url"], headers=owner)
    assert answer.headers["content-type"] == file["media_type"] == "image/webp"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == f'attachment; filename="{file["name"]}"'
    assert answer.headers["etag"] == f'"{file["sha256"]}"'
    assert len(answer.content) == file["bytes"]
    same = {**owner, "if-none-match": answer.headers["etag"]}
    assert client.get(file["url"], headers=same).status_code == 304
    missing = client.get(f"/v1/jobs/{done['id']}/artefacts/1", headers=owner)
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "job_not_found"


@pytest.mark.parametrize("task", ["likelihood", "encode"])
def test_judgements_are_jobs_too(
    client: TestClient, owner: Headers, image: Callable[..., bytes], task: str
) -> None:
    request = {"model": "tiny-flow", "image": base64.b64encode(image()).decode()}
    done = finished(client, owner, submit(client, owner, {"task": task, "request": request})["id"])
    direct = client.post(f"/v1/{task}", json=request, headers=owner).json()
    assert done["data"] == direct["data"]


def test_a_form_brings_images_as_files(
    client: TestClient, owner: Headers, folder: Path, image: Callable[..., bytes]
) -> None:
    request = {"model": "tiny-vae", "operation": "reconstruct", "seed": 3}
    answer = client.post(
        "/v1/jobs",
        data={"task": "edit", "request": json.dumps(request), "deadline_seconds": "60"},
        files={"image": ("a.png", image(), "image/png")},
        headers=owner,
    )
    assert answer.status_code == 202, answer.text
    done = finished(client, owner, answer.json()["id"])
    direct = client.post(
        "/v1/edit", json={**request, "image": base64.b64encode(image()).decode()}, headers=owner
    ).json()
    made = client.get(done["data"][0]["url"], headers=owner).content
    assert made == base64.b64decode(direct["data"][0]["b64_json"])
    # What was uploaded is gone once it is not needed any more.
    inside = folder / "jobs" / done["id"]
    end = time.monotonic() + PATIENCE
    while len(list(inside.iterdir())) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_events_tell_of_a_job_until_its_end_and_can_be_resumed(
    client: TestClient, owner: Headers
) -> None:
    job = submit(client, owner)
    answer = client.get(f"/v1/jobs/{job['id']}/events", headers=owner)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert [name for name, _ in told][-3:] == ["image", "image", "done"]
    assert {name for name, _ in told} <= {"queued", "progress", "image", "done"}
    images = [data for name, data in told if name == "image"]
    assert [data["seed"] for data in images] == [7, 8]
    last = re.findall(r"^id: (\d+)$", answer.text, re.MULTILINE)[-1]
    before = {**owner, "last-event-id": str(int(last) - 1)}
    again = events(client.get(f"/v1/jobs/{job['id']}/events", headers=before).text)
    assert [name for name, _ in again] == ["image", "image", "done"]
    nothing = client.get(f"/v1/jobs/{job['id']}/events", headers={**owner, "last-event-id": last})
    assert nothing.status_code == 204
    wrong = client.get(f"/v1/jobs/{job['id']}/events", headers={**owner, "last-event-id": "x"})
    assert wrong.status_code == 422


def test_canceling_reaches_the_engines(client: TestClient, owner: Headers, holding: Held) -> None:
    job = submit(client, owner)
    until(client, owner, job["id"], lambda j: j["status"] == "running")
    end = time.monotonic() + PATIENCE
    while job["id"] not in {call.id for call in holding.calls}:
        assert time.monotonic() < end
        time.sleep(0.02)
    answer = client.delete(f"/v1/jobs/{job['id']}", headers=owner)
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    while job["id"] not in holding.withdrawn:
        assert time.monotonic() < end
        time.sleep(0.02)
    told = events(client.get(f"/v1/jobs/{job['id']}/events", headers=owner).text)
    assert [(name, data["error"]["code"]) for name, data in told] == [("error", "canceled")]
    assert client.delete(f"/v1/jobs/{job['id']}", headers=owner).status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}", headers=owner).status_code == 404


def test_removing_a_job_removes_its_files(client: TestClient, owner: Headers, folder: Path) -> None:
    done = finished(client, owner, submit(client, owner)["id"])
    assert list((folder / "jobs" / done["id"]).iterdir())
    assert client.delete(f"/v1/jobs/{done['id']}", headers=owner).status_code == 204
    assert not (folder / "jobs" / done["id"]).exists()
    for route in ("", "/events", "/artefacts/0"):
        assert client.get(f"/v1/jobs/{done['id']}{route}", headers=owner).status_code == 404


def test_another_keys_job_does_not_exist(
    client: TestClient, owner: Headers, stranger: Headers
) -> None:
    done = finished(client, owner, submit(client, owner)["id"])
    made_up = "job-" + "0" * 32
    asks = [("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/artefacts/0")]
    for method, route in asks:
        theirs = client.request(method, f"/v1/jobs/{done['id']}{route}", headers=stranger)
        nobodys = client.request(method, f"/v1/jobs/{made_up}{route}", headers=stranger)
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(done["id"], made_up) == nobodys.text
        assert client.request(method, f"/v1/jobs/{done['id']}{route}").status_code == 401
    assert client.get("/v1/jobs", headers=stranger).json()["data"] == []
    assert client.get(f"/v1/jobs/{done['id']}", headers=owner).json() == done


def test_a_deadline_ends_a_job(client: TestClient, owner: Headers, holding: Held) -> None:
    job = submit(client, owner, {**ASK, "deadline_seconds": 0.7})
    done = finished(client, owner, job["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "deadline_exceeded")
    told = events(client.get(f"/v1/jobs/{job['id']}/events", headers=owner).text)
    assert told[-1][0] == "error"


def test_a_job_that_the_model_refuses_fails_with_its_words(
    client: TestClient, owner: Headers
) -> None:
    request = {"model": "tiny-gan", "sampler": "euler", "seed": 1}
    direct = client.post("/v1/generate", json=request, headers=owner)
    assert direct.status_code == 422
    job = submit(client, owner, {"task": "generate", "request": request})
    done = finished(client, owner, job["id"])
    assert (done["status"], done["error"]) == ("failed", direct.json()["error"])


def test_a_list_is_paged_and_filtered(client: TestClient, owner: Headers) -> None:
    ids = [finished(client, owner, submit(client, owner)["id"])["id"] for _ in range(3)]
    page = client.get("/v1/jobs", params={"limit": 2}, headers=owner).json()
    assert [job["id"] for job in page["data"]] == ids[:0:-1]
    rest = client.get(
        "/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]}, headers=owner
    ).json()
    assert [job["id"] for job in rest["data"]] == ids[:1]
    assert rest["next_cursor"] is None

    def count(**params: str) -> int:
        return len(client.get("/v1/jobs", params=params, headers=owner).json()["data"])

    assert (count(status="succeeded"), count(status="failed")) == (3, 0)
    assert (count(model="tiny-diffusion"), count(model="tiny-gan")) == (3, 0)
    for wrong in ({"status": "lost"}, {"limit": "0"}, {"limit": "101"}, {"cursor": "%%%"}):
        assert client.get("/v1/jobs", params=wrong, headers=owner).status_code == 422


def test_a_poller_is_told_when_to_come_back_and_what_is_new(
    client: TestClient, owner: Headers, holding: Held
) -> None:
    job = submit(client, owner)
    until(client, owner, job["id"], lambda j: j["status"] == "running")
    first = client.get(f"/v1/jobs/{job['id']}", headers=owner)
    assert first.headers["retry-after"] == "1"
    again = client.get(
        f"/v1/jobs/{job['id']}", headers={**owner, "if-none-match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    client.delete(f"/v1/jobs/{job['id']}", headers=owner)
    new = client.get(
        f"/v1/jobs/{job['id']}", headers={**owner, "if-none-match": first.headers["etag"]}
    )
    assert new.json()["status"] == "canceled"
    assert "retry-after" not in new.headers


def test_jobs_stand_behind_requests_and_count_as_their_owners(
    client: TestClient, owner: Headers, held: Held
) -> None:
    done = finished(client, owner, submit(client, owner, {**ASK, "priority": 3})["id"])
    call = next(call for call in held.calls if call.id == done["id"])
    assert call.background
    assert call.payer != call.tenant
    assert call.weight == pytest.approx(0.25 / 8)
    assert done["priority"] == 3


def test_device_seconds_are_charged_when_a_job_is_done(client: TestClient, keys: KeyStore) -> None:
    new = keys.create("metered", device_seconds="0.001/d")
    metered = {"authorization": f"Bearer {new.text}"}
    long = {"task": "generate", "request": {**GENERATE, "n": 4, "steps": 50}}
    done = finished(client, metered, submit(client, metered, long)["id"])
    assert done["device_seconds"] > 0.001
    end = time.monotonic() + PATIENCE
    while True:
        answer = client.post("/v1/jobs", json=ASK, headers=metered)
        if answer.status_code == 429:
            break
        assert time.monotonic() < end
        time.sleep(0.1)
    assert answer.json()["error"]["code"] == "quota_exceeded"


def test_one_scrape_counts_the_jobs_of_all(client: TestClient, owner: Headers) -> None:
    finished(client, owner, submit(client, owner)["id"])
    page = client.get("/metrics").text
    found = dict(re.findall(r'^atelier_jobs\{state="(\w+)"\} (\S+)$', page, re.MULTILINE))
    assert set(found) == {"queued", "running", "succeeded", "failed", "canceled"}
    assert float(found["succeeded"]) >= 1
    takes = {"accept": "application/openmetrics-text"}
    families = list(text_string_to_metric_families(client.get("/metrics", headers=takes).text))
    assert [family.name for family in families].count("atelier_jobs") == 1
