"""Whatever is sent, the answer is a typed refusal, and the next request is served."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.e2e.asks import png
from tests.e2e.running import Server

SECONDS = 10.0
"""More than any refusal takes on a busy machine, and less than the work that would be wrong."""


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def gif() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "GIF")
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG that says it has 3.6 gigapixels, in a few dozen bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def judged(image: bytes) -> dict[str, Any]:
    return {"model": "shapes-vae", "images": [encoded(image)]}


def text(**fields: Any) -> dict[str, Any]:
    return {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 2, **fields}


BAD: dict[str, tuple[str, str | dict[str, Any], int, str]] = {
    "unknown model": ("generate", text(model="shapes-ldn"), 404, "model_not_found"),
    "NaN": ("generate", json.dumps(text(guidance_scale=float("nan"))), 422, "invalid_parameter"),
    "infinity": (
        "generate",
        json.dumps(text(guidance_scale=float("inf"))),
        422,
        "invalid_parameter",
    ),
    "10**400": ("generate", json.dumps(text(seed=10**400)), 422, "invalid_parameter"),
    "1e400": (
        "generate",
        '{"model": "shapes-ldm", "guidance_scale": 1e400}',
        422,
        "invalid_parameter",
    ),
    "a number as text": ("generate", text(steps="2"), 422, "invalid_parameter"),
    "a field nobody knows": ("generate", text(stepz=2), 422, "invalid_parameter"),
    "no JSON": ("generate", '{"model": ', 400, "bad_request"),
    "1 MB prompt": ("generate", text(prompt="red " * (1 << 18)), 413, "too_large"),
    "body over the limit": ("generate", text(prompt="x" * (33 << 20)), 413, "too_large"),
    "truncated image": ("likelihood", judged(png(1, 64)[:-40]), 422, "invalid_image"),
    "mislabelled image": ("likelihood", judged(gif()), 415, "unsupported_media_type"),
    "decompression bomb": ("likelihood", judged(bomb()), 413, "too_large"),
    "no density": (
        "likelihood",
        {"model": "strangers-gan", "images": [encoded(png(1, 8))]},
        422,
        "unsupported_task",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_in_the_envelope_and_the_next_request_served(
    server: Server, what: str
):
    route, body, status, code = BAD[what]
    content = body if isinstance(body, str) else json.dumps(body)
    started = time.monotonic()
    answer = httpx.post(
        f"{server.url}/v1/{route}",
        content=content,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert time.monotonic() - started < SECONDS
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert len(error["message"]) < 2000
    assert server.post("/v1/generate", text()).status_code == 200


def test_an_unknown_model_is_answered_with_near_names(server: Server):
    answer = server.post("/v1/generate", text(model="shapes-ldn"))
    assert "shapes-ldm" in answer.json()["error"]["message"]
