"""Durable jobs over HTTP: accepted, followed, fetched, canceled, removed; each owner's own."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core.backend import PoolStatus
from services.core.job import Answer, Call, Event, Watch
from services.core.model import ModelInfo
from services.gateway.app import create_app
from services.gateway.examples import JOB
from services.gateway.key_store import KeyStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.jobs.composition import jobs_for
from services.jobs.settings import JobSettings
from services.serving.in_process import InProcessBackend

PATIENCE = 30.0
GENERATE = {"model": "tiny-diffusion", "n": 2, "seed": 7, "steps": 3}
ASK = {"task": "generate", "request": GENERATE}
SMALL = 200_000
"""Bytes that one owner may keep."""


class Held:
    """The engines, or a call that takes for ever, until it is withdrawn."""

    def __init__(self, backend: InProcessBackend) -> None:
        self._backend = backend
        self.hold = False
        self.calls: list[Call] = []
        self.withdrawn: list[str] = []

    async def run(self, call: Call) -> Answer:
        return await self._backend.run(call)

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        if self.hold:
            try:
                while self.hold:
                    await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                self.withdrawn.append(call.id)
                raise
        async for event in self._backend.stream(call, watch):
            yield event

    async def models(self) -> Sequence[ModelInfo]:
        return await self._backend.models()

    async def model(self, name: str) -> ModelInfo:
        return await self._backend.model(name)

    async def status(self) -> Sequence[PoolStatus]:
        return await self._backend.status()

    async def ready(self) -> bool:
        return await self._backend.ready()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("state") / "keys.json")


@pytest.fixture(scope="module")
def folder(keys: KeyStore) -> Path:
    return keys._path.parent


@pytest.fixture(scope="module")
def held(tiny_backend: InProcessBackend) -> Held:
    return Held(tiny_backend)


@pytest.fixture(scope="module")
def client(keys: KeyStore, folder: Path, held: Held) -> Iterator[TestClient]:
    """One service for all: DBOS takes a second to start, and is one per process."""
    settings = GatewaySettings(
        key_file=keys._path,
        provenance={"enabled": False},
        stream_heartbeat=0.2,
        jobs=JobSettings(
            poll_seconds=0.05,
            sweep_seconds=0.2,
            lease_seconds=1.0,
            owner_bytes=SMALL,
            max_queued_per_owner=3,
        ),
    )
    app = create_app(
        held,
        settings,
        metrics=GatewayMetrics(CollectorRegistry()),
        make_jobs=jobs_for(settings.jobs, folder),
    )
    with TestClient(app) as opened:
        yield opened


Headers = dict[str, str]


@pytest.fixture
def owner(keys: KeyStore) -> Headers:
    """An owner of the test's own."""
    return {"authorization": f"Bearer {keys.create(uuid.uuid4().hex).text}"}


@pytest.fixture
def stranger(keys: KeyStore) -> Headers:
    return {"authorization": f"Bearer {keys.create(uuid.uuid4().hex).text}"}


@pytest.fixture
def holding(held: Held) -> Iterator[Held]:
    held.hold = True
    yield held
    held.hold = False


def submit(client: TestClient, headers: Headers, body: Any = ASK, **more: str) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=body, headers={**headers, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()


def finished(client: TestClient, headers: Headers, job_id: str) -> dict[str, Any]:
    return until(client, headers, job_id, lambda j: j["status"] not in ("queued", "running"))


def until(
    client: TestClient, headers: Headers, job_id: str, condition: Callable[[Any], bool]
) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while True:
        job = client.get(f"/v1/jobs/{job_id}", headers=headers).json()
        if condition(job):
            return job
        assert time.monotonic() < end, job
        time.sleep(0.05)


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n", text)
    return [(name, json.loads(data)) for name, data in found]


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
