"""Nobody computes for a client that is gone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

BODY = json.dumps({"model": "shapes-ldm", "prompt": "a star"}).encode()


class Connection:
    """One raw ASGI exchange, in which the client can hang up."""

    def __init__(self, body: bytes = BODY) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.sent: list[dict[str, Any]] = []

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/generate",
            "raw_path": b"/v1/generate",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
        }

    def open(self, app: Any) -> asyncio.Task[None]:
        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        return asyncio.create_task(app(self.scope(), self.inbox.get, send))

    def hang_up(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


def _others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


def _canceled(registry: Any, where: str) -> float | None:
    return registry.get_sample_value("atelier_canceled_total", {"where": where})


def test_a_disconnect_cancels_the_run_once(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        connection = Connection()
        answering = connection.open(build())
        await backend.held.wait()
        connection.hang_up()
        await asyncio.wait_for(answering, 5)
        assert backend.canceled == 1
        assert connection.status == 499
        assert not _others()

    asyncio.run(scenario())
    assert _canceled(registry, "client") == 1


def test_a_cancelled_handler_cancels_the_run_once(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        answering = Connection().open(build())
        await backend.held.wait()
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(answering, 5)
        assert backend.canceled == 1
        assert not _others()

    asyncio.run(scenario())
    assert _canceled(registry, "client") == 1
    labels = {"route": "/v1/generate", "model": "shapes-ldm", "task": "generate", "code": "499"}
    assert registry.get_sample_value("atelier_requests_total", labels) == 1


def test_the_next_request_is_unharmed(build: Any, backend: Any) -> None:
    async def scenario() -> None:
        app = build()
        backend.held = asyncio.Event()
        gone = Connection()
        answering = gone.open(app)
        await backend.held.wait()
        gone.hang_up()
        await answering
        backend.held = None
        following = Connection()
        await following.open(app)
        assert following.status == 200
        assert not _others()

    asyncio.run(scenario())


def test_a_passed_deadline_cancels_the_run(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        body = json.dumps({"model": "shapes-ldm", "deadline": 0.5}).encode()
        connection = Connection(body)
        await asyncio.wait_for(connection.open(build(deadline_grace=0.01)), 5)
        assert connection.status == 504
        assert backend.canceled == 1
        assert not _others()

    asyncio.run(scenario())
    assert _canceled(registry, "deadline") == 1


def test_a_run_that_cancels_itself_is_no_crash(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.error = asyncio.CancelledError()
        connection = Connection()
        await connection.open(build())
        assert connection.status == 499

    asyncio.run(scenario())
    assert _canceled(registry, "backend") == 1


def test_a_client_that_leaves_while_sending_is_no_crash(build: Any, backend: Any) -> None:
    async def scenario() -> None:
        connection = Connection()
        connection.inbox.get_nowait()
        connection.hang_up()
        await connection.open(build())
        assert connection.status == 499
        assert not backend.calls

    asyncio.run(scenario())


def test_a_slow_sender_is_cut_off(build: Any, backend: Any) -> None:
    async def scenario() -> None:
        connection = Connection()
        connection.inbox.get_nowait()
        connection.inbox.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        await asyncio.wait_for(connection.open(build(body_timeout=0.05)), 5)
        assert connection.status == 400
        assert (b"connection", b"close") in connection.sent[0]["headers"]

    asyncio.run(scenario())
