"""Nobody computes for a client that is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.asgi import PATIENCE, Connection, other_tasks, skip


def _canceled(registry: Any, where: str) -> float | None:
    return registry.get_sample_value("atelier_canceled_total", {"where": where})


def test_a_disconnect_cancels_the_run_once(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        connection = Connection()
        answering = connection.open(build())
        await backend.held.wait()
        connection.hang_up()
        await asyncio.wait_for(answering, PATIENCE)
        assert backend.canceled == 1
        assert connection.status == 499
        assert not other_tasks()

    asyncio.run(scenario())
    assert _canceled(registry, "client") == 1


def test_a_cancelled_handler_cancels_the_run_once(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        answering = Connection().open(build())
        await backend.held.wait()
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(answering, PATIENCE)
        assert backend.canceled == 1
        assert not other_tasks()

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
        assert not other_tasks()

    asyncio.run(scenario())


def test_a_passed_deadline_cancels_the_run(build: Any, backend: Any, registry: Any) -> None:
    async def scenario() -> None:
        backend.held = asyncio.Event()
        connection = Connection(deadline=30)
        answering = connection.open(build())
        await backend.held.wait()
        skip(60)
        await answering
        assert connection.status == 504
        assert backend.canceled == 1
        assert not other_tasks()

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
        connection.send_instead({"type": "http.disconnect"})
        await connection.open(build())
        assert connection.status == 499
        assert not backend.calls

    asyncio.run(scenario())


def test_a_slow_sender_is_cut_off(build: Any, backend: Any) -> None:
    async def scenario() -> None:
        connection = Connection()
        connection.send_instead({"type": "http.request", "body": b"{", "more_body": True})
        await asyncio.wait_for(connection.open(build(body_timeout=0.05)), PATIENCE)
        assert connection.status == 400
        assert (b"connection", b"close") in connection.sent[0]["headers"]

    asyncio.run(scenario())
