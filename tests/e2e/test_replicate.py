"""The unmodified client of ``replicate`` over real Ray Serve, with webhooks and a dataset."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import replicate
from replicate.exceptions import ReplicateError
from replicate.helpers import FileOutput
from replicate.webhook import Webhooks
from standardwebhooks import Webhook

from services.client import Client
from tests.e2e.asks import pixels, png
from tests.e2e.running import Server, until

MODEL = "atelier/shapes-ldm"
ASKED = {"prompt": "a large red star on black", "seed": 7, "steps": 4}
LONG = {**ASKED, "steps": 900, "n": 4}
PATIENCE = 120.0


pytestmark = pytest.mark.parametrize("server", ["fused"], indirect=True)


@pytest.fixture
def client(server: Server) -> replicate.Client:
    found = replicate.Client(api_token="anybody", base_url=server.url)
    found.poll_interval = 0.1
    return found


class Receiver(ThreadingHTTPServer):
    """Refuses once, and then takes every webhook."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Hook)


class _Hook(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(500 if len(self.server.got) == 1 else 204)
        self.end_headers()

    def log_message(self, *told: Any) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def native(server: Server, **body: Any) -> list[Any]:
    answer = server.post("/v1/generate", {"model": "shapes-ldm", **body}).raise_for_status().json()
    return [pixels(base64.b64decode(entry["b64_json"])).tolist() for entry in answer["data"]]


def test_run_gives_the_pixels_of_the_native_route(client: replicate.Client, server: Server):
    files = client.run(MODEL, input={**ASKED, "n": 2})
    assert all(isinstance(file, FileOutput) for file in files)
    assert [pixels(file.read()).tolist() for file in files] == native(server, n=2, **ASKED)


def test_an_image_goes_in(client: replicate.Client):
    asked = {**ASKED, "operation": "variation", "image": io.BytesIO(png(1, 32)), "strength": 0.5}
    (file,) = client.run(MODEL, input=asked)
    assert pixels(file.read()).shape == (32, 32, 3)


def test_create_get_list_cancel(client: replicate.Client):
    prediction = client.predictions.create(version=MODEL, input=LONG)
    assert prediction.status in ("starting", "processing")
    prediction.cancel()
    assert prediction.status == "canceled"
    assert prediction.id in {one.id for one in client.predictions.list()}
    assert client.models.get(MODEL).latest_version.id == "shapes-ldm"
    with pytest.raises(ReplicateError) as caught:
        client.run(MODEL, input={**ASKED, "steps": 0})
    assert (caught.value.status, "steps" in caught.value.detail) == (422, True)


def test_streaming(client: replicate.Client):
    told = [event.event.value for event in client.stream(MODEL, input=ASKED)]
    assert told[-2:] == ["output", "done"]


def test_a_webhook_arrives_though_its_receiver_failed_once(
    client: replicate.Client, receiver: Receiver
):
    prediction = client.predictions.create(
        version=MODEL,
        input=ASKED,
        webhook=f"http://127.0.0.1:{receiver.server_address[1]}/",
        webhook_events_filter=["completed"],
    )
    until(lambda: len(receiver.got) == 2, "the webhook is tried again", PATIENCE)
    secret = client.webhooks.default.secret()
    (first, second) = receiver.got
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    for headers, body in receiver.got:
        Webhooks.validate(headers=headers, body=body.decode(), secret=secret)
        told = Webhook(secret.key).verify(body, headers)
        assert (told["id"], told["status"]) == (prediction.id, "succeeded")


def test_a_bulk_job_becomes_a_dataset(server: Server, tmp_path: Path):
    grid = {"label": [0, 1], "truncation": [0.7, 1.0]}
    with Client(server.url) as ours:
        job = ours.jobs.submit("bulk", "shapes-cgan", grid=grid, n=3, seed=5, shard_size=5)
        done = ours.jobs.wait(job, timeout=PATIENCE)
        places = ours.jobs.download(done, tmp_path)
        again = ours.jobs.submit("bulk", "shapes-cgan", grid=grid, n=3, seed=5, shard_size=5)
        twin = ours.jobs.wait(again, timeout=PATIENCE)
    assert (done.status, done.rows_done) == ("succeeded", 12)
    names = []
    for place, file in zip(places, done.artefacts, strict=True):
        assert hashlib.sha256(place.read_bytes()).hexdigest() == file.sha256
        if place.suffix == ".tar":
            with tarfile.open(place) as tar:
                names += tar.getnames()
    assert names == [f"{i:09d}.{end}" for i in range(12) for end in ("png", "json")]
    assert len(places[-1].read_text().splitlines()) == 12
    assert twin.artefacts[-1].sha256 == done.artefacts[-1].sha256
