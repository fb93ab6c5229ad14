"""Over real sockets: what an in-memory client cannot show."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import uvicorn

BODY = json.dumps({"model": "shapes-ldm", "prompt": "a star"}).encode()
PATIENCE = 60.0


def _wait_for(condition: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.01)


@pytest.fixture
def port(build: Any) -> Iterator[int]:
    config = uvicorn.Config(build(max_body_bytes=100_000), port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    _wait_for(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def _head(*lines: str) -> bytes:
    first = ("POST /v1/generate HTTP/1.1", "host: localhost", "content-type: application/json")
    return "\r\n".join([*first, *lines, "", ""]).encode()


def test_a_closed_socket_cancels_the_run(port: int, backend: Any, registry: Any) -> None:
    backend.held = asyncio.Event()
    with _connect(port) as connection:
        connection.sendall(_head(f"content-length: {len(BODY)}") + BODY)
        _wait_for(lambda: len(backend.calls) == 1)
    _wait_for(lambda: backend.canceled == 1)
    where = {"where": "client"}
    _wait_for(lambda: registry.get_sample_value("atelier_canceled_total", where) == 1)


@pytest.mark.parametrize("claim", ["content-length: 999999999", "transfer-encoding: chunked"])
def test_an_oversized_body_is_answered_while_it_is_being_sent(port: int, claim: str) -> None:
    with _connect(port) as connection:
        connection.sendall(_head(claim))
        if "chunked" in claim:
            connection.sendall((b"fa00\r\n" + b" " * 64_000 + b"\r\n") * 2)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_the_openai_client_passes(port: int) -> None:
    client = openai.OpenAI(api_key="any", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
    answer = client.images.generate(prompt="a star")
    assert answer.data is not None
    assert answer.data[0].b64_json
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nonesuch")
