"""Streams over a real server, its proxy included, with engines in its process and apart."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.asks import raw, shown
from tests.e2e.running import REQUEST_SECONDS, Server, until

EVALUATIONS = "atelier_network_evaluations_total"
ASK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 3, "steps": 12, "n": 2}
LONG = {**ASK, "steps": 900, "sampler": "ddim", "n": 4}


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_stream_ends_in_the_plain_answer(server: Server):
    plain = server.post("/v1/generate", ASK).raise_for_status().json()
    body = {**ASK, "response": "stream", "preview_every": 4}
    with server.client() as client, client.stream("POST", "/v1/generate", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert len(answer.headers.get_list("x-request-id")) == 1
        told = list(events(answer))
    assert told[0][0] == "queued"
    assert told[-1][0] == "done"
    images = {data.pop("index"): data for name, data in told if name == "image"}
    assert shown({"data": [images[0], images[1]]}) == shown(plain)
    assert {(d["index"], d["step"]) for name, d in told if name == "preview"} == {
        (row, step) for row in range(2) for step in (4, 8)
    }


def test_a_refusal_has_its_status(server: Server):
    body = {**ASK, "prompt": "a purple elephant", "response": "stream"}
    answer = server.post("/v1/generate", body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "prompt"


def test_events_arrive_while_the_work_goes_on(server: Server):
    body = {**LONG, "response": "stream"}
    with server.client() as client, client.stream("POST", "/v1/generate", json=body) as answer:
        told = events(answer)
        progress = next(data for name, data in told if name == "progress")
        assert progress["step"] < LONG["steps"]
        assert server.trajectories() == LONG["n"]
    until(lambda: server.trajectories() == 0, "the rows are free")


def test_a_client_that_leaves_a_stream_frees_its_rows(server: Server):
    canceled = server.total("atelier_canceled_total", where="client")
    before = server.total(EVALUATIONS, model="shapes-ldm")
    body = {**LONG, "response": "stream"}
    with server.client() as client, client.stream("POST", "/v1/generate", json=body) as answer:
        next(events(answer))
    until(lambda: server.trajectories() == 0, "the rows are free", seconds=5.0)
    evaluations = server.total(EVALUATIONS, model="shapes-ldm")
    assert evaluations - before < LONG["steps"]
    time.sleep(0.5)
    assert server.total(EVALUATIONS, model="shapes-ldm") == evaluations
    assert server.total("atelier_canceled_total", where="client") == canceled + 1
    counted = {"route": "/v1/generate", "model": "shapes-ldm", "code": "499"}
    assert server.total("atelier_requests_total", **counted) >= 1


def test_a_client_that_does_not_read_holds_up_nobody(server: Server):
    body = json.dumps({**LONG, "steps": 60, "preview_every": 1, "response": "stream"})
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=REQUEST_SECONDS) as line:
        line.sendall(
            f"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        until(lambda: server.trajectories() >= LONG["n"], "the request is being worked on")
        server.post("/v1/generate", ASK).raise_for_status()
        until(lambda: server.trajectories() == 0, "both are done", REQUEST_SECONDS)
        data = b"".join(iter(lambda: line.recv(1 << 16), b""))
    assert data.count(b"event: image\n") == LONG["n"]
    assert data.count(b"event: done\n") == 1


def test_the_openai_client_streams(server: Server):
    client = openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0)
    told = list(
        client.images.generate(
            model="shapes-ldm",
            prompt="a red star",
            stream=True,
            partial_images=2,
            extra_body={"seed": 3, "steps": 12},
        )
    )
    assert [event.type.split(".")[1] for event in told] == [
        "partial_image",
        "partial_image",
        "completed",
    ]
    assert told[-1].size == "32x32"


def _pixels(entry: dict[str, Any]) -> bytes:
    return raw(base64.b64decode(entry["b64_json"]))


def test_a_stream_outlives_the_replica_behind_it_or_says_why_not(server: Server, placement: str):
    if placement == "fused":
        pytest.skip("the gateway itself holds the engines: its death closes the connection")
    ask = {**ASK, "steps": 100}
    plain = server.post("/v1/generate", ask).raise_for_status().json()["data"]
    body = {**ask, "response": "stream"}
    with server.client() as client, client.stream("POST", "/v1/generate", json=body) as answer:
        told = events(answer)
        assert any(name == "progress" for name, _ in told)
        replica = server.replica("default")
        assert replica is not None
        replica.kill()
        rest = list(told)
    name, data = rest[-1]
    if name == "done":
        images = [d for kind, d in rest if kind == "image"]
        assert sorted(image.pop("index") for image in images) == [0, 1]
        assert sorted(map(_pixels, images)) == sorted(map(_pixels, plain))
    else:
        assert (name, data["error"]["code"]) == ("error", "unavailable")
    until(server.ready, "the service is back", 90.0)
