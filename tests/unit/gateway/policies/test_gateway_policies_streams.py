"""A stream tells the images that pass, and neither previews nor others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.testclient import TestClient

from services.core.job import Call, CallFinished, Event, Preview, Queued, RowFinished, Task, Watch
from tests.asgi import exchanged
from tests.unit.gateway.policies.conftest import guarded_app, shade


class Rows:
    """Streams previews, and rows of the given shades."""

    def __init__(self, backend: Any, shades: list[int]) -> None:
        self._backend, self._shades = backend, shades
        self.watches: list[Watch] = []
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        assert call.task is Task.GENERATE
        self.watches.append(watch)
        try:
            yield Queued(len(self._shades), 0, 0.1)
            for row, value in enumerate(self._shades):
                yield Preview(row, 1, 2, 0, shade(value))
                await asyncio.sleep(0)
                answer = await self._backend.run(call)
                yield RowFinished(row, type(answer.items[0])({"seed": row}, shade(value)))
            yield CallFinished(call.model, answer.timings, 1.0)
        finally:
            self.closed = True


async def _streamed(app: Any) -> list[tuple[str, dict[str, Any]]]:
    found = await exchanged(
        app, "/v1/generate", prompt="a moon", response="stream", preview_every=1, n=3
    )
    blocks = found.said.decode().strip().split("\n\n")
    return [(b.split("\n")[0][7:], json.loads(b.split("data: ")[1])) for b in blocks]


async def test_a_stream_keeps_back_the_images_that_are_held(backend, registry, tmp_path) -> None:
    rows = Rows(backend, [20, 200, 30])
    rule = {"name": "bright", "use": "bright", "settings": {"action": "hold"}}
    app = guarded_app(rows, registry, tmp_path, rule)
    events = await _streamed(app)
    assert [name for name, _ in events] == ["queued", "image", "image", "error"]
    assert [data["index"] for name, data in events if name == "image"] == [0, 2]
    assert events[-1][1]["error"]["code"] == "held_for_review"
    assert rows.watches == [Watch()]
    review = TestClient(app).get(events[-1][1]["error"]["review"]["url"]).json()
    assert len(review["images"]) == 1


async def test_a_stream_ends_at_an_image_that_is_refused(backend, registry, tmp_path) -> None:
    rows = Rows(backend, [20, 200, 30])
    rule = {"name": "bright", "use": "bright", "settings": {"action": "refuse"}}
    events = await _streamed(guarded_app(rows, registry, tmp_path, rule))
    assert [name for name, _ in events] == ["queued", "image", "error"]
    assert events[-1][1]["error"]["code"] == "content_policy_violation"
    assert rows.closed
    assert len(backend.calls) == 2


async def test_previews_are_shown_where_no_policy_looks_at_images(
    backend, registry, tmp_path
) -> None:
    events = await _streamed(guarded_app(Rows(backend, [200]), registry, tmp_path))
    assert [name for name, _ in events] == ["queued", "preview", "image", "done"]
