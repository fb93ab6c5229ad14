"""The unmodified client of ``replicate``, over real engines and real jobs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
import replicate
from PIL import Image
from prometheus_client import CollectorRegistry
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.webhook import Webhooks as ReplicateWebhooks
from standardwebhooks import Webhook
from starlette.testclient import TestClient

from services.gateway.app import create_app
from services.gateway.key_store import KeyStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.predictions import seconds_to_wait
from services.gateway.settings import GatewaySettings
from services.jobs.composition import jobs_for
from services.jobs.settings import JobSettings
from services.jobs.webhooks import WebhookSettings
from services.serving.in_process import InProcessBackend

MODEL, STEPS = "atelier/tiny-diffusion", 4
ASKED = {"prompt": "red", "seed": 7, "steps": STEPS}


class Breaking:
    """A backend whose streams fail as long as a test wants."""

    def __init__(self, backend: InProcessBackend) -> None:
        self._backend = backend
        self.broken = False

    def stream(self, *asked: Any) -> Any:
        if self.broken:
            raise FloatingPointError("no number")
        return self._backend.stream(*asked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("state") / "keys.json")


@pytest.fixture(scope="module")
def backend(tiny_backend: InProcessBackend) -> Breaking:
    return Breaking(tiny_backend)


@pytest.fixture(scope="module")
def service(backend: Breaking, keys: KeyStore) -> Iterator[TestClient]:
    """One service for all: DBOS takes a second to start, and is one per process."""
    chosen = GatewaySettings(
        key_file=keys._path,
        jobs=JobSettings(poll_seconds=0.02, sweep_seconds=0.2, lease_seconds=1.0),
        webhooks=WebhookSettings(allow_private=True, first_pause=0.01),
        provenance={"enabled": False},
    )
    app = create_app(
        backend,  # type: ignore[arg-type]  # a double
        chosen,
        metrics=GatewayMetrics(CollectorRegistry()),
        make_jobs=jobs_for(chosen.jobs, chosen.jobs_folder),
    )
    with TestClient(app) as client:
        yield client


@pytest.fixture
def token(keys: KeyStore) -> str:
    """Of an owner of the test's own."""
    return keys.create(uuid.uuid4().hex).text


@pytest.fixture
def stranger(keys: KeyStore) -> str:
    return keys.create(uuid.uuid4().hex).text


class Through(httpx.BaseTransport):
    """Hands requests to a test client, which needs no socket."""

    def __init__(self, service: TestClient) -> None:
        self._service = service

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._service.request(
            request.method,
            str(request.url),
            content=request.read(),
            headers=dict(request.headers),
            follow_redirects=False,
        )
        return httpx.Response(
            answer.status_code, headers=dict(answer.headers), content=answer.content
        )


class AsyncThrough(httpx.AsyncBaseTransport):
    """The same for clients that are awaited."""

    def __init__(self, service: TestClient) -> None:
        self._through = Through(service)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return await asyncio.to_thread(self._through.handle_request, request)


def client_of(
    service: TestClient, token: str, *, scheme: str = "https", kind: Any = Through
) -> replicate.Client:
    transport = kind(service)
    found = replicate.Client(token, base_url=f"{scheme}://testserver", transport=transport)
    found.poll_interval = 0.05
    return found


@pytest.fixture
def client(service: TestClient, token: str) -> replicate.Client:
    return client_of(service, token)


@pytest.fixture(params=["https", "http"])
def any_client(request: pytest.FixtureRequest, service: TestClient, token: str) -> replicate.Client:
    return client_of(service, token, scheme=request.param)


def pixels(image: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(image))).tolist()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def native(service: TestClient, token: str, **body: Any) -> list[Any]:
    asked = {"model": "tiny-diffusion", **body}
    answer = service.post("/v1/generate", json=asked, headers=bearer(token)).json()
    return [pixels(base64.b64decode(entry["b64_json"])) for entry in answer["data"]]


def test_run_gives_files_with_the_pixels_of_the_native_route(
    any_client: replicate.Client, service: TestClient, token: str
) -> None:
    expected = native(service, token, n=2, **ASKED)
    found = any_client.run(MODEL, input={**ASKED, "n": 2})
    assert all(isinstance(one, FileOutput) for one in found)
    assert [pixels(one.read()) for one in found] == expected
    again = any_client.run(f"{MODEL}:tiny-diffusion", input=ASKED, wait=False)
    assert pixels(again[0].read()) == expected[0]


def test_a_prediction_from_its_creation_to_its_end(client: replicate.Client) -> None:
    prediction = client.predictions.create(version="tiny-diffusion", input=ASKED)
    assert prediction.status in ("starting", "processing")
    assert prediction.model == MODEL
    prediction.wait()
    assert prediction.status == "succeeded"
    assert prediction.input["prompt"] == "red"
    assert prediction.error is None
    assert prediction.progress is not None
    assert prediction.progress.percentage == 1.0
    assert prediction.metrics["total_time"] >= prediction.metrics["predict_time"] > 0
    assert client.predictions.get(prediction.id).output == prediction.output
    assert prediction.created_at <= prediction.started_at <= prediction.completed_at
    assert prediction.id in {one.id for one in client.predictions.list()}


def test_pages(client: replicate.Client) -> None:
    made = {client.predictions.create(version="tiny-gan", input={}).id for _ in range(21)}
    first = client.predictions.list()
    second = client.predictions.list(first.next)
    assert second.next is None
    assert {one.id for one in [*first, *second]} == made


def test_what_is_canceled_has_one_l(client: replicate.Client) -> None:
    prediction = client.predictions.create(model=MODEL, input={**ASKED, "steps": 900, "n": 8})
    prediction.cancel()
    assert prediction.status == "canceled"
    prediction.wait()
    client.predictions.cancel(prediction.id)
    assert client.predictions.get(prediction.id).status == "canceled"


def test_streaming(client: replicate.Client) -> None:
    told = list(client.stream(MODEL, input=ASKED))
    assert [event.event.value for event in told if event.event.value != "logs"] == [
        "output",
        "done",
    ]
    output = next(event for event in told if event.event.value == "output")
    assert pixels(output.data.read())


async def test_async_run(service: TestClient, token: str) -> None:
    client = client_of(service, token, kind=AsyncThrough)
    found = await client.async_run(MODEL, input=ASKED)
    assert pixels(await found[0].aread())


@pytest.mark.parametrize("strategy", ["base64", None])
def test_files_go_in(client: replicate.Client, strategy: Any) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(stream, "PNG")
    asked = {**ASKED, "operation": "variation", "image": stream, "strength": 0.5}
    found = client.run(MODEL, input=asked, file_encoding_strategy=strategy)
    assert pixels(found[0].read())


def test_other_tasks_give_values(client: replicate.Client) -> None:
    image = "data:image/png;base64,"
    stream = io.BytesIO()
    Image.new("L", (4, 4), 90).save(stream, "PNG")
    image += base64.b64encode(stream.getvalue()).decode()
    (found,) = client.run("atelier/tiny-flow", input={"task": "likelihood", "image": image})
    assert found["kind"] == "exact"


def test_models(client: replicate.Client) -> None:
    model = client.models.get(MODEL)
    assert (model.owner, model.name, model.id) == ("atelier", "tiny-diffusion", MODEL)
    assert model.latest_version is not None
    assert [one.id for one in model.versions.list()] == ["tiny-diffusion"]
    assert model.versions.get("tiny-diffusion").openapi_schema["components"]["schemas"]["Input"]
    assert pixels(client.run(model, input=ASKED)[0].read())
    assert pixels(client.run(model.latest_version, input=ASKED, wait=False)[0].read())


@pytest.mark.parametrize(
    ("act", "status", "said"),
    [
        (lambda c: c.run("atelier/tiny-difusion", input=ASKED), 404, "tiny-difusion"),
        (lambda c: c.run("other/tiny-diffusion", input=ASKED), 404, "atelier/NAME"),
        (lambda c: c.predictions.create(version="no/a/b", input=ASKED), 404, "atelier/NAME"),
        (lambda c: c.run(MODEL, input={**ASKED, "steps": 0}), 422, "steps"),
        (lambda c: c.run(MODEL, input={**ASKED, "paint": 1}), 422, "paint"),
        (lambda c: c.run(MODEL, input={**ASKED, "task": "dance"}), 422, "dance"),
        (lambda c: c.run(MODEL, input={**ASKED, "model": "x"}), 422, "another model"),
        (lambda c: c.run("atelier/tiny-gan", input={"task": "likelihood"}), 422, "tiny-gan"),
        (lambda c: c.predictions.get("job-0"), 404, "job"),
        (lambda c: c.predictions.cancel("job-0"), 404, "job"),
        (lambda c: c.predictions.create(MODEL, input=ASKED, webhook="ftp://a/"), 422, "URL"),
        (lambda c: c.models.get("atelier/nothing"), 404, "nothing"),
        (lambda c: c.models.get(MODEL).versions.get("older"), 404, "one version"),
        (lambda c: c.files.create(io.BytesIO(b"no image")), 415, "PNG"),
    ],
)
def test_refusals_are_problems(
    client: replicate.Client, act: Callable[[Any], Any], status: int, said: str
) -> None:
    with pytest.raises(ReplicateError) as caught:
        act(client)
    assert caught.value.status == status
    assert said in str(caught.value.detail)
    assert caught.value.title


def test_a_failure_is_the_clients_own_error(client: replicate.Client, backend: Breaking) -> None:
    backend.broken = True
    with pytest.raises(ModelError, match="unexpectedly"):
        client.run(MODEL, input=ASKED)
    backend.broken = False


def test_another_keys_prediction_does_not_exist(
    service: TestClient, token: str, stranger: str
) -> None:
    mine, theirs = client_of(service, token), client_of(service, stranger)
    prediction = mine.predictions.create(version=MODEL, input=ASKED)
    prediction.wait()
    assert pixels(FileOutput(prediction.output[0], mine).read())
    for act in (theirs.predictions.get, theirs.predictions.cancel):
        with pytest.raises(ReplicateError) as caught:
            act(prediction.id)
        assert caught.value.status == 404
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        FileOutput(prediction.output[0], theirs).read()
    assert list(theirs.predictions.list()) == []
    assert theirs.webhooks.default.secret() != mine.webhooks.default.secret()
    for path in (f"/v1/jobs/{prediction.id}/deliveries", f"/v1/predictions/{prediction.id}/stream"):
        assert service.get(path, headers=bearer(token)).status_code == 200
        assert service.get(path, headers=bearer(stranger)).status_code == 404


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((dict(self.headers), body))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *told: Any) -> None:
        """Says nothing."""


def test_webhooks_carry_the_prediction_and_verify(
    client: replicate.Client, service: TestClient, token: str
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Hook)
    server.got = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    prediction = client.predictions.create(
        version=MODEL,
        input=ASKED,
        webhook=f"http://127.0.0.1:{server.server_address[1]}/hook",
        webhook_events_filter=["start", "completed"],
    )
    prediction.wait()

    def states() -> list[str]:
        found = service.get(f"/v1/jobs/{prediction.id}/deliveries", headers=bearer(token)).json()[
            "data"
        ]
        return [one["state"] for one in found]

    for _ in range(500):
        if states() == ["delivered", "delivered"]:
            break
        threading.Event().wait(0.02)
    assert states() == ["delivered", "delivered"]
    server.shutdown()
    secret = client.webhooks.default.secret()
    told = []
    for headers, body in server.got:  # type: ignore[attr-defined]
        ReplicateWebhooks.validate(headers=_lower(headers), body=body.decode(), secret=secret)
        told.append(Webhook(secret.key).verify(body, headers))
    told.sort(key=lambda one: str(one["status"]))
    assert [one["status"] for one in told] == ["processing", "succeeded"]
    assert told[1]["id"] == prediction.id
    assert told[1]["output"] == [f"https://testserver/v1/jobs/{prediction.id}/artefacts/0"]
    rotated = service.post("/v1/webhooks/default/secret/rotate", headers=bearer(token)).json()[
        "key"
    ]
    assert client.webhooks.default.secret().key == rotated != secret.key


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("", 0), ("wait", 60), ("wait=5", 5), ("respond-async, wait=7", 7), ("wait=999", 60),
        ("waiting", 0), ("wait=0", 0), ("handling=lenient; wait = 3", 3),
    ],
)  # fmt: skip
def test_how_long_to_wait(prefer: str, seconds: float) -> None:
    assert seconds_to_wait(prefer) == seconds


def test_what_was_not_done_in_time_is_still_starting(client: replicate.Client) -> None:
    """The client takes anything else for the end, and would give no output."""
    prediction = client.predictions.create(
        version=MODEL, input={**ASKED, "steps": 900, "n": 8}, wait=1
    )
    assert prediction.status == "starting"
    client.predictions.cancel(prediction.id)


def test_every_documented_error_is_a_problem(service: TestClient) -> None:
    document = service.get("/openapi.json").json()
    reference = {"$ref": "#/components/schemas/ProblemEnvelope"}
    for path, operations in document["paths"].items():
        if not path.startswith(("/v1/predictions", "/v1/files", "/v1/webhooks")):
            continue
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert json.dumps(reference) in json.dumps(answer), (path, status)
    answer = service.get("/v1/predictions/job-0")
    assert answer.headers["content-type"] == "application/problem+json"
