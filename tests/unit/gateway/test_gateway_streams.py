"""Streams over HTTP: what is said, to whom, and for how long."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core import errors
from services.core.images import ImageLimits, read_header
from services.families import discover
from services.gateway import streams
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend, PoolSettings
from tests.asgi import PATIENCE, Connection, other_tasks, skip
from tests.tiny_models import one_of_each

Events = list[tuple[str, dict[str, Any]]]
ASK = {"model": "tiny-diffusion", "prompt": "a red circle", "seed": 3, "steps": 6}


@pytest.fixture(scope="module")
def engines() -> Iterator[InProcessBackend]:
    """Real engines of every family, loaded once."""
    backend = InProcessBackend(
        one_of_each(), discover(), settings=PoolSettings(drain_seconds=0.0, preload=("*",))
    )
    backend.preload()
    yield backend
    backend.close()


@pytest.fixture
def served(engines: InProcessBackend, registry: CollectorRegistry) -> TestClient:
    """The gateway over real engines."""
    return TestClient(create_app(engines, GatewaySettings(), metrics=GatewayMetrics(registry)))


@pytest.fixture
def speak(served: TestClient) -> openai.OpenAI:
    return openai.OpenAI(
        api_key="any", base_url="http://testserver/v1", http_client=served, max_retries=0
    )


def parsed(text: str) -> Events:
    """The events of a stream; comments are left out, as every reader does."""
    assert text.endswith("\n\n")
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def of(name: str, events: Events) -> list[dict[str, Any]]:
    return [data for kind, data in events if kind == name]


def stream(client: TestClient, path: str = "/v1/generate", **body: Any) -> Events:
    answer = client.post(path, json={**body, "response": "stream"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in answer.headers
    assert answer.headers["cache-control"] == "no-store, no-transform"
    return parsed(answer.text)


def test_a_stream_tells_everything_and_ends_in_the_plain_answer(served: TestClient) -> None:
    plain = served.post("/v1/generate", json={**ASK, "n": 2}).json()
    events = stream(served, **ASK, n=2)
    names = [name for name, _ in events]
    assert names[0] == "queued"
    assert names[-1] == "done"
    (queued,) = of("queued", events)
    assert set(queued) == {"request_id", "images", "ahead", "seconds"}
    assert queued["images"] == 2
    progress = of("progress", events)
    assert {(p["index"], p["step"], p["steps"]) for p in progress} >= {(0, 6, 6), (1, 6, 6)}
    assert all(set(p) == {"index", "step", "steps", "sigma", "eta"} for p in progress)
    images = {image.pop("index"): image for image in of("image", events)}
    assert [images[0], images[1]] == plain["data"]
    (done,) = of("done", events)
    assert done["model"] == "tiny-diffusion"
    assert set(done["timings"]) == set(plain["timings"])
    assert not of("preview", events)


def test_previews_come_when_asked_for(served: TestClient) -> None:
    events = stream(served, **ASK, preview_every=2, output_format="webp")
    previews = of("preview", events)
    assert [(p["index"], p["step"], p["output_format"]) for p in previews] == [
        (0, 2, "webp"),
        (0, 4, "webp"),
    ]
    for preview in previews:
        assert read_header(base64.b64decode(preview["b64_json"]), ImageLimits()).format == "WEBP"


def test_an_edit_streams_too(served: TestClient, image: Callable[..., bytes]) -> None:
    body = {**ASK, "operation": "variation", "image": base64.b64encode(image()).decode()}
    plain = served.post("/v1/edit", json=body).json()
    events = stream(served, "/v1/edit", **body)
    (made,) = of("image", events)
    assert made["b64_json"] == plain["data"][0]["b64_json"]


def test_models_of_one_evaluation_stream_their_images(served: TestClient) -> None:
    events = stream(served, model="tiny-gan", label="red", n=3, preview_every=1)
    assert [name for name, _ in events if name != "image"] == ["queued", "done"]
    assert sorted(image["index"] for image in of("image", events)) == [0, 1, 2]


def test_the_accept_header_asks_for_a_stream_as_well(served: TestClient) -> None:
    answer = served.post("/v1/generate", json=ASK, headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({**ASK, "steps": 5000}, 422, "steps"),
        ({**ASK, "prompt": "a purple circle"}, 422, "prompt"),
        ({**ASK, "model": "tiny-difusion"}, 404, "model"),
        ({**ASK, "preview_every": 0}, 422, "preview_every"),
        ({"model": "tiny-flow", "label": 3}, 422, "label"),
    ],
)
def test_refusals_are_ordinary_responses(
    served: TestClient, body: dict[str, Any], status: int, param: str
) -> None:
    answer = served.post("/v1/generate", json={**body, "response": "stream"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["param"] == param


def test_previews_without_a_stream_are_refused(served: TestClient) -> None:
    answer = served.post("/v1/generate", json={**ASK, "preview_every": 2})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "preview_every"


def _requests(registry: CollectorRegistry, code: int) -> float | None:
    labels = {
        "route": "/v1/generate",
        "model": "shapes-ldm",
        "task": "generate",
        "code": str(code),
    }
    return registry.get_sample_value("atelier_requests_total", labels)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.EngineFailure("broken"), 500, "engine_failure"),
        (errors.DeadlineExceeded("late"), 504, "deadline_exceeded"),
        (errors.Canceled("withdrawn"), 499, "canceled"),
        (RuntimeError("a bug"), 500, "internal_error"),
    ],
)
def test_an_error_in_a_stream_is_its_last_event(
    client: TestClient, backend: Any, registry: Any, error: Any, status: int, code: str
) -> None:
    backend.error = error
    events = stream(client, model="shapes-ldm", prompt="a star")
    assert [name for name, _ in events] == ["queued", "error"]
    assert set(events[-1][1]["error"]) == {"message", "type", "param", "code"}
    assert events[-1][1]["error"]["code"] == code
    assert "a bug" not in json.dumps(events)
    assert _requests(registry, status) == 1
    assert _requests(registry, 200) is None


def _canceled(registry: CollectorRegistry, where: str) -> float | None:
    return registry.get_sample_value("atelier_canceled_total", {"where": where})


def test_who_waits_is_told_that_somebody_is_there(build: Any, backend: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        line = Connection(response="stream")
        answering = line.open(build(stream_heartbeat=0.01))
        await line.until(b"\n\n: still here\n\n: still here\n\n")
        line.hang_up()
        await asyncio.wait_for(answering, PATIENCE)

    asyncio.run(scenario())


def test_a_disconnect_ends_the_stream_and_the_work(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        line = Connection(response="stream")
        answering = line.open(build())
        await backend.held.wait()
        line.hang_up()
        await asyncio.wait_for(answering, PATIENCE)
        assert backend.canceled == 1
        assert b"error" not in line.said
        assert not other_tasks()

    asyncio.run(scenario())
    assert _canceled(registry, "client") == 1
    assert _requests(registry, 499) == 1


def test_a_disconnect_frees_the_work_of_a_client_that_had_stopped_reading(
    build: Any, backend: Any, registry: Any
) -> None:
    async def scenario() -> None:
        line = Connection(response="stream")
        line.reading.clear()
        answering = line.open(build())
        await line.arrived.wait()
        line.hang_up()
        await asyncio.wait_for(answering, PATIENCE)
        assert not other_tasks()

    asyncio.run(scenario())
    assert _canceled(registry, "client") == 1


def test_a_cancelled_handler_ends_the_work(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        answering = Connection(response="stream").open(build())
        await backend.held.wait()
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(answering, PATIENCE)
        assert backend.canceled == 1
        assert not other_tasks()

    asyncio.run(scenario())
    assert _canceled(registry, "client") == 1
    assert _requests(registry, 499) == 1


def test_a_passed_deadline_ends_the_stream(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        line = Connection(response="stream", deadline=30)
        answering = line.open(build())
        await backend.held.wait()
        skip(60)
        await answering
        assert backend.canceled == 1
        (name, data) = parsed(line.said.decode())[-1]
        assert (name, data["error"]["code"]) == ("error", "deadline_exceeded")
        assert not line.sent[-1]["more_body"]

    asyncio.run(scenario())
    assert _canceled(registry, "deadline") == 1
    assert _requests(registry, 504) == 1


def test_a_client_that_does_not_read_holds_up_nobody(
    engines: InProcessBackend, registry: CollectorRegistry
) -> None:
    app = create_app(engines, GatewaySettings(), metrics=GatewayMetrics(registry))

    async def scenario() -> None:
        long = {**ASK, "steps": 300, "n": 2, "sampler": "ddim", "preview_every": 1}
        line = Connection(response="stream", **long)
        line.reading.clear()
        answering = line.open(app)
        await line.arrived.wait()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            other = await client.post("/v1/generate", json=ASK)
        assert other.status_code == 200
        while engines.loop.status().trajectories:
            await asyncio.sleep(0.01)
        assert len(line.sent) == 1
        line.reading.set()
        await asyncio.wait_for(answering, PATIENCE)
        events = parsed(line.said.decode())
        assert len(of("image", events)) == 2
        assert len(of("progress", events)) < 300
        assert len(of("preview", events)) < 300

    asyncio.run(scenario())


def test_a_client_that_never_reads_counts_as_gone(
    build: Any, backend: Any, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAST_WORDS_SECONDS", 0.01)

    async def scenario() -> None:
        line = Connection(response="stream")
        answering = line.open(build(stream_patience=0.01))
        await line.arrived.wait()
        line.reading.clear()
        await asyncio.wait_for(answering, PATIENCE)
        assert not other_tasks()

    asyncio.run(scenario())
    assert _canceled(registry, "client") == 1
    assert _requests(registry, 499) == 1


def test_duration_counts_until_the_last_byte(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        line = Connection(response="stream")
        answering = line.open(build())
        await backend.held.wait()
        assert _requests(registry, 200) is None
        await asyncio.sleep(0.05)
        line.hang_up()
        await answering

    asyncio.run(scenario())
    labels = {"route": "/v1/generate", "model": "shapes-ldm"}
    assert registry.get_sample_value("atelier_request_seconds_count", labels) == 1
    assert registry.get_sample_value("atelier_request_seconds_sum", labels) >= 0.05


def test_the_openai_client_streams(speak: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-diffusion",
        "prompt": "a red circle",
        "extra_body": {"seed": 3, "steps": 8, "sampler": "euler"},
    }
    plain = speak.images.generate(**asked)
    events = list(speak.images.generate(**asked, stream=True, partial_images=3))
    *partial, completed = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    for event in events:
        assert event.size == "8x8"
        assert event.output_format == "png"
        assert (event.background, event.quality) == ("opaque", "auto")
        header = read_header(base64.b64decode(event.b64_json), ImageLimits())
        assert (header.width, header.height) == (8, 8)
    assert isinstance(completed, openai.types.ImageGenCompletedEvent)
    assert completed.type == "image_generation.completed"
    assert completed.usage.total_tokens == 0
    assert plain.data is not None
    assert completed.b64_json == plain.data[0].b64_json


def test_the_openai_client_may_want_no_partial_images_or_several_images(
    speak: openai.OpenAI,
) -> None:
    events = list(
        speak.images.generate(
            model="tiny-diffusion", prompt="red", n=2, stream=True, extra_body={"steps": 4}
        )
    )
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert all(event.model_extra is not None for event in events)
    assert sorted(event.model_extra["image_index"] for event in events if event.model_extra) == [
        0,
        1,
    ]


def test_the_openai_client_raises_what_goes_wrong_in_a_stream(connect: Any, backend: Any) -> None:
    client = openai.OpenAI(
        api_key="any", base_url="http://testserver/v1", http_client=connect(), max_retries=0
    )
    backend.error = errors.EngineFailure("the model failed on this request")
    with pytest.raises(openai.APIError, match="the model failed"):
        list(client.images.generate(prompt="a star", stream=True))
    with pytest.raises(openai.UnprocessableEntityError, match="partial_images"):
        client.images.generate(prompt="a star", stream=True, partial_images=4)
