"""Floods of headers and of tiny pieces end where a setting says, and cost no work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.asgi import Connection
from tests.floods import RANGES

ASK = {"model": "shapes-ldm", "prompt": "a red circle", "seed": 1}


@pytest.mark.parametrize(
    "flood",
    [
        [(f"x-{i}", "y") for i in range(200)],
        [("x-long", "y" * 40_000)],
        [("authorization", "Bearer x")] * 200,
        [("range", RANGES)],
    ],
    ids=["many", "long", "same", "ranges"],
)
def test_a_flood_of_headers_is_refused(
    client: TestClient, backend: Any, flood: list[tuple[str, str]]
) -> None:
    answer = client.post("/v1/generate", json=ASK, headers=flood)
    assert answer.status_code == 431
    error = answer.json()["error"]
    assert error["code"] == "headers_too_large"
    assert "32768 bytes" in error["message"]
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert not backend.calls


def test_ranges_mean_nothing_to_a_service_without_files(client: TestClient) -> None:
    ranges = {"range": "bytes=" + ",".join(f"{i}-{i}" for i in range(2000))}
    answer = client.get("/v1/models", headers=ranges)
    assert answer.status_code == 200
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("piece", [b"", b" "])
def test_a_body_comes_in_a_bounded_number_of_pieces(build: Any, backend: Any, piece: bytes) -> None:
    async def scenario() -> Connection:
        connection = Connection()
        chunk = {"type": "http.request", "body": piece, "more_body": True}
        connection.send_instead(*[chunk] * 600)
        await asyncio.wait_for(connection.open(build(max_body_chunks=500)), 10)
        assert connection.inbox.qsize() == 99
        return connection

    answered = asyncio.run(scenario())
    assert answered.status == 413
    assert b"500 pieces" in answered.said
    assert (b"connection", b"close") in answered.sent[0]["headers"]
    assert not backend.calls
