"""The typed client, against the gateway over real engines and real sockets."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from prometheus_client import CollectorRegistry

from services.client import (
    ApiError,
    AsyncClient,
    Client,
    ConnectionFailed,
    Done,
    HeldForReview,
    ImageReady,
    InvalidRequest,
    NotFound,
    Preview,
    Progress,
    Queued,
    RateLimited,
    Retries,
)
from services.client.streams import EventReader
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each

MODEL, STEPS = "tiny-diffusion", 4
PATIENCE = 60.0


class Flaky:
    """An application that first answers with errors of its own."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.seeds: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not self.refusals:
            await self._app(scope, receive, send)
            return
        status, headers = self.refusals.pop(0)
        body = (
            b'{"error": {"message": "not now", "type": "x", "param": null, "code": "queue_full"}}'
        )
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": named})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def flaky() -> Iterator[Flaky]:
    backend = InProcessBackend(one_of_each(), discover())
    metrics = GatewayMetrics(CollectorRegistry())
    yield Flaky(create_app(backend, GatewaySettings(), metrics=metrics))
    backend.close()


@pytest.fixture(scope="module")
def url(flaky: Flaky) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(flaky, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, retries=Retries(most=2, first_pause=0.01)) as made:
        yield made


def picture(side: int = 8) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def native(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(url + path, json=body, timeout=PATIENCE).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def test_the_catalog(client: Client) -> None:
    names = [model.id for model in client.models()]
    assert MODEL in names
    model = client.model(MODEL)
    assert (model.family, model.resolution) == ("diffusion", (8, 8))
    assert "generate" in model.operations
    assert client.ready()
    assert client.status().ready


def test_images_are_those_of_the_interface(client: Client, url: str, tmp_path: Path) -> None:
    answer = client.generate(MODEL, prompt="red", seed=7, steps=STEPS, n=2)
    expected = native(
        url, "/v1/generate", {"model": MODEL, "prompt": "red", "seed": 7, "steps": STEPS, "n": 2}
    )
    assert [image.data for image in answer.images] == [
        base64.b64decode(entry["b64_json"]) for entry in expected
    ]
    assert [image.seed for image in answer.images] == [7, 8]
    assert answer.timings.step > 0
    assert answer.images[0].pil().size == (8, 8)
    answer.images[0].save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == answer.images[0].data


def test_images_go_in_as_bytes_paths_or_pil(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    answers = [
        client.edit(MODEL, "variation", images=[given], prompt="red", seed=1, steps=STEPS)
        for given in (picture(), path, str(path), Image.open(path))
    ]
    assert len({answer.images[0].data for answer in answers}) == 1
    with pytest.raises(TypeError, match="int"):
        client.edit(MODEL, "variation", images=[3])  # type: ignore[list-item]  # the mistake


def test_latents_go_back_as_they_came(client: Client) -> None:
    encoded = client.encode("tiny-flow", [picture(4)])
    again = client.generate("tiny-flow", latents=encoded.entries[0].latents)
    edited = client.edit("tiny-flow", "reconstruct", images=[picture(4)])
    assert np.abs(
        np.asarray(again.images[0].pil()).astype(int) - np.asarray(edited.images[0].pil())
    ).max() <= 1  # fmt: skip


def test_likelihoods_are_those_of_the_interface(client: Client, url: str) -> None:
    found = client.likelihood("tiny-vae", [picture(4)], samples=3, seed=2)
    body = {"model": "tiny-vae", "samples": 3, "seed": 2}
    body["images"] = [base64.b64encode(picture(4)).decode()]
    (expected,) = native(url, "/v1/likelihood", body)
    (entry,) = found.entries
    assert entry.log_likelihood == expected["log_likelihood"]
    assert (entry.kind, entry.bits_per_dim) == ("lower_bound", expected["bits_per_dim"])


def test_a_stream_tells_what_happens_and_ends_in_the_same_images(client: Client) -> None:
    asked: dict[str, Any] = {"prompt": "red", "seed": 7, "steps": STEPS}
    with client.stream(MODEL, preview_every=2, **asked) as events:
        told = list(events)
    assert isinstance(told[0], Queued)
    assert isinstance(told[-1], Done)
    ready = [event for event in told if isinstance(event, ImageReady)]
    assert ready[0].image.data == client.generate(MODEL, **asked).images[0].data
    assert ready[0].image.seed == 7
    previews = [event for event in told if isinstance(event, Preview)]
    assert previews[0].image.pil().size[0] > 0
    assert all(event.steps == STEPS for event in told if isinstance(event, Progress))


def test_leaving_a_stream_ends_the_work(client: Client) -> None:
    with client.stream(MODEL, prompt="red", steps=900, n=4) as events:
        assert isinstance(next(events), Queued)
    end = time.monotonic() + PATIENCE
    while sum(pool["trajectories"] for pool in client.status().pools):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_withdrawn_stream_ends_in_a_typed_error(client: Client) -> None:
    with client.stream(MODEL, prompt="red", steps=900, n=8) as events:
        first = next(events)
        assert isinstance(first, Queued)
        client.withdraw(first.request_id)
        with pytest.raises(ApiError) as caught:
            list(events)
    assert caught.value.code == "canceled"
    with pytest.raises(NotFound):
        client.withdraw(first.request_id)


def test_what_the_server_refuses_is_typed(client: Client) -> None:
    with pytest.raises(NotFound, match="tiny-difusion") as unknown:
        client.generate("tiny-difusion")
    assert (unknown.value.status, unknown.value.code) == (404, "model_not_found")
    assert unknown.value.request_id
    with pytest.raises(InvalidRequest) as wrong:
        client.generate(MODEL, steps=0)
    assert wrong.value.param == "steps"
    with pytest.raises(InvalidRequest, match="stepz"):
        client.generate(MODEL, extra={"stepz": 1})
    with (
        pytest.raises(InvalidRequest),
        client.stream(MODEL, prompt="a purple elephant"),
    ):
        pytest.fail("a refused stream was entered")


@pytest.mark.parametrize("headers", [{"retry-after": "0"}, {}, {"x-should-retry": "true"}])
def test_what_may_pass_is_tried_again(
    client: Client, flaky: Flaky, headers: dict[str, str]
) -> None:
    flaky.refusals = [(429, headers), (503, headers)]
    assert client.generate("tiny-gan", seed=1).images
    flaky.refusals = [(429, headers)]
    with client.stream("tiny-gan", seed=1) as events:
        assert isinstance(list(events)[-1], Done)


def test_no_more_often_than_was_said(client: Client, flaky: Flaky) -> None:
    flaky.refusals = [(429, {"retry-after": "0"})] * 3
    with pytest.raises(RateLimited) as caught:
        client.generate("tiny-gan")
    assert caught.value.retry_after == 0
    assert not flaky.refusals


@pytest.mark.parametrize(
    ("status", "headers"),
    [(503, {"x-should-retry": "false"}), (422, {}), (429, {"retry-after": "9999"})],
)
def test_what_cannot_help_is_not_tried(
    client: Client, flaky: Flaky, status: int, headers: dict[str, str]
) -> None:
    flaky.refusals = [(status, headers)]
    with pytest.raises(ApiError) as caught:
        client.generate("tiny-gan")
    assert caught.value.status == status
    assert not flaky.refusals


def test_an_answer_that_is_held_for_review_is_typed_and_says_where_to_ask(
    client: Client, flaky: Flaky
) -> None:
    flaky.refusals = [(202, {"location": "/v1/reviews/r1"})] * 2
    with pytest.raises(HeldForReview, match="/v1/reviews/r1") as caught:
        client.generate("tiny-gan")
    assert (caught.value.status, caught.value.review) == (202, "/v1/reviews/r1")
    with pytest.raises(HeldForReview), client.stream("tiny-gan"):
        pytest.fail("a held stream was entered")


def test_retry_after_is_honoured_and_pauses_double() -> None:
    retries = Retries(most=3, first_pause=1.0)
    told = httpx.Response(429, headers={"retry-after": "7"})
    assert retries.pause(1, told) == 7.0
    assert retries.pause(4, told) is None
    busy = httpx.Response(503)
    pauses = [retries.pause(attempt, busy) for attempt in (1, 2, 3)]
    for pause, most in zip(pauses, (1.0, 2.0, 4.0), strict=True):
        assert pause is not None
        assert 0.75 * most <= pause <= most
    assert retries.pause(1, httpx.ReadTimeout("late")) is None
    assert retries.pause(1, httpx.ConnectError("nobody")) is not None


@pytest.mark.parametrize("given", ["http://127.0.0.1:9", "http://host:port", "nowhere"])
def test_nobody_there(given: str) -> None:
    with (
        pytest.raises(ConnectionFailed),
        Client(given, retries=Retries(most=1, first_pause=0.01)) as client,
    ):
        client.models()


def test_the_async_client_has_the_same_methods_and_answers(client: Client, url: str) -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)

    async def ask() -> tuple[Any, ...]:
        async with AsyncClient(url) as made:
            asked: dict[str, Any] = {"prompt": "red", "seed": 7, "steps": STEPS}
            images = await made.generate(MODEL, **asked)
            async with made.stream(MODEL, **asked) as events:
                told = [event async for event in events]
            async with made.stream_edit("tiny-gan", "interpolate", seeds=[1, 2], n=3) as strip:
                frames = [event async for event in strip if isinstance(event, ImageReady)]
            edited = await made.edit("tiny-flow", "reconstruct", images=[picture(4)])
            judged = await made.likelihood("tiny-flow", [picture(4)])
            encoded = await made.encode("tiny-flow", [picture(4)])
            with pytest.raises(NotFound):
                await made.model("nobody")
            with pytest.raises(NotFound):
                await made.withdraw("nobody")
            assert await made.ready()
            assert (await made.status()).ready
            assert len(await made.models()) == len(client.models())
            return images, told, frames, edited, judged, encoded

    images, told, frames, edited, judged, encoded = asyncio.run(ask())
    alone = client.generate(MODEL, prompt="red", seed=7, steps=STEPS)
    assert images.images[0].data == alone.images[0].data
    assert isinstance(told[-1], Done)
    assert len(frames) == 3
    assert edited.images[0].data == client.edit(
        "tiny-flow", "reconstruct", images=[picture(4)]
    ).images[0].data  # fmt: skip
    assert judged.entries == client.likelihood("tiny-flow", [picture(4)]).entries
    assert encoded.entries == client.encode("tiny-flow", [picture(4)]).entries


def test_a_stream_of_another_form_is_no_surprise() -> None:
    reader = EventReader()
    lines = [": still here", "", "event: unheard-of", "data: {}", "", "event: queued", "data: [1]"]
    assert [reader.take(line) for line in lines] == [None] * 7
    with pytest.raises(ConnectionFailed, match="queued"):
        reader.take("")
