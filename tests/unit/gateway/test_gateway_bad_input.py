"""Bad input: a typed 4xx each, never a 500, and the next request is answered."""

from __future__ import annotations

import base64
import json
import struct
import time
import zlib
from typing import Any

import pytest

from tests.floods import form

ASK = {"model": "shapes-ldm", "prompt": "a star", "seed": 7}
JSON = {"content-type": "application/json"}


def _with(text: str) -> bytes:
    """The usual body with one more member, as raw text."""
    return f'{{"model": "shapes-ldm", {text}}}'.encode()


BODIES = {
    "unknown model": (_with('"seed": 1').replace(b"shapes-ldm", b"shape-ldm"), 404),
    "path as model": (_with('"seed": 1').replace(b"shapes-ldm", b"../../etc/passwd"), 404),
    "long model": (_with('"seed": 1').replace(b"shapes-ldm", b"x" * 200), 422),
    "no model": (b"{}", 422),
    "unknown field": (_with('"stepz": 1'), 422),
    "text for number": (_with('"steps": "ten"'), 422),
    "text of a number": (_with('"steps": "10"'), 422),
    "bool for number": (_with('"n": true'), 422),
    "float for integer": (_with('"n": 1.5'), 422),
    "number for text": (_with('"prompt": 3'), 422),
    "list for object": (_with('"factors": []'), 422),
    "zero images": (_with('"n": 0'), 422),
    "too many images": (_with('"n": 65'), 422),
    "too many steps": (_with('"steps": 1001'), 422),
    "negative seed": (_with('"seed": -1'), 422),
    "seed over 63 bits": (_with('"seed": 9223372036854775808'), 422),
    "10^400": (_with('"seed": 1' + "0" * 400), 422),
    "a million digits": (_with('"seed": ' + "9" * 1_000_000), 422),
    "1e400": (_with('"guidance_scale": 1e400'), 422),
    "a million decimals": (_with('"guidance_scale": 1.' + "1" * 1_000_000), 422),
    "NaN": (_with('"guidance_scale": NaN'), 422),
    "Infinity": (_with('"guidance_scale": -Infinity'), 422),
    "deadline zero": (_with('"deadline": 0'), 422),
    "deadline of a year": (_with('"deadline": 31536000'), 422),
    "long prompt": (_with(f'"prompt": "{"a" * 2001}"'), 413),
    "1 MB prompt": (_with(f'"prompt": "{"a" * (1 << 20)}"'), 413),
    "1 MB negative prompt": (_with(f'"negative_prompt": "{"a" * (1 << 20)}"'), 413),
    "NUL": (_with('"prompt": "a\\u0000b"'), 422),
    "lone surrogate": (_with('"prompt": "a\\ud800b"'), 422),
    "lone surrogate in a name": (_with('"\\udfff": 1'), 422),
    "duplicate key": (_with('"seed": 1, "seed": 2'), 422),
    "nested duplicate key": (_with('"factors": {"a": "b", "a": "c"}'), 422),
    "depth 17": (_with('"codes": ' + "[" * 17 + "]" * 17), 422),
    "depth 5000": (_with('"codes": ' + "[" * 5000 + "]" * 5000), 422),
    "depth 90000": (_with('"codes": ' + "[" * 90_000 + "]" * 90_000), 422),
    "a million empty lists": (_with('"codes": [' + "[]," * 1_000_000 + "[]]"), 422),
    "a million codes": (_with('"codes": [' + "1," * 1_000_000 + "1]"), 422),
    "truncated": (_with('"seed": 1')[:-1], 400),
    "unfinished text": (b'{"model": "shapes', 400),
    "trailing text": (_with('"seed": 1') + b"}", 400),
    "not JSON": (b"model=shapes-ldm", 400),
    "empty": (b"", 400),
    "blank": (b"  \n", 400),
    "a list": (b"[]", 422),
    "a number": (b"3", 422),
    "null": (b"null", 422),
    "invalid UTF-8": (_with('"prompt": "')[:-1] + b'\xff\xfe"}', 400),
    "UTF-16": (_with('"seed": 1').decode().encode("utf-16"), 400),
    "wrong shape of latents": (_with('"latents": {"data": "AAAA", "shape": [0]}'), 422),
    "vast latents": (_with('"latents": {"data": "AAAA", "shape": [99999, 99999]}'), 422),
    "size in words": (_with('"size": "large"'), 422),
    "gif": (_with('"output_format": "gif"'), 422),
    "image for generate": (_with('"image": "AAAA"'), 422),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_body_is_a_typed_4xx(client: Any, backend: Any, name: str) -> None:
    body, status = BODIES[name]
    begun = time.process_time()  # of the processor: others' load on the machine does not count
    answer = client.post("/v1/generate", content=body, headers=JSON)
    spent = time.process_time() - begun
    assert answer.status_code == status, answer.text[:300]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1000
    assert answer.headers["x-should-retry"] == "false"
    assert not backend.calls
    assert spent < 3
    assert client.post("/v1/generate", json=ASK).status_code == 200


def test_near_names_are_offered(client: Any) -> None:
    error = client.post("/v1/generate", json={"model": "shape-ldm"}).json()["error"]
    assert error["code"] == "model_not_found"
    assert "shapes-ldm" in error["message"]


def test_the_field_at_fault_is_named(client: Any) -> None:
    unknown = client.post("/v1/generate", json={**ASK, "stepz": 3}).json()["error"]
    assert unknown["param"] == "stepz"
    assert "steps" in unknown["message"]
    either = client.post("/v1/generate", json={**ASK, "label": True}).json()["error"]
    assert either["param"] == "label"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/pickle", ""]
)
def test_wrong_content_type_is_415(client: Any, content_type: str) -> None:
    answer = client.post(
        "/v1/generate", content=json.dumps(ASK), headers={"content-type": content_type}
    )
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


def _png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises a size, with next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)


IMAGES = {
    "no image": (b"hello", 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "gif": (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", 415),
    "truncated header": (b"\x89PNG\r\n\x1a\n\x00\x00", 422),
    "truncated JPEG": (b"\xff\xd8\xff\xe0\x00", 422),
    "mislabelled": (b"RIFF\x10\x00\x00\x00WEBPnonsense", 422),
    "bomb": (_png_of(60_000, 60_000), 413),
    "smaller bomb": (_png_of(5000, 5000), 413),
    "larger bomb": (_png_of(2**31 - 1, 2**31 - 1), (413, 422)),
    "empty": (b"", 422),
}


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("name", IMAGES)
def test_bad_image_is_a_typed_4xx(client: Any, backend: Any, name: str, form: bool) -> None:
    data, status = IMAGES[name]
    if form:
        files = {"image": ("a.png", data, "image/png")}
        answer = client.post("/v1/likelihood", data={"model": "shapes-vae"}, files=files)
    else:
        text = base64.b64encode(data).decode()
        answer = client.post("/v1/likelihood", json={"model": "shapes-vae", "image": text})
    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text
    assert answer.json()["error"]["param"] == "image"
    assert not backend.calls


@pytest.mark.parametrize(
    ("source", "status", "word"),
    [
        ("https://example.com/a.png", 422, "not fetched"),
        ("file:///etc/passwd", 422, "not fetched"),
        ("%%%", 422, "base64"),
        ("data:image/png,raw", 422, "base64"),
        ("é", 422, "base64"),
    ],
)
def test_text_that_is_no_image(client: Any, source: str, status: int, word: str) -> None:
    answer = client.post("/v1/encode", json={"model": "shapes-vae", "image": source})
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]


def test_image_limits_are_settings(connect: Any, image: Any) -> None:
    text = base64.b64encode(image()).decode()
    body = {"model": "shapes-vae", "images": [text] * 3}
    assert connect(max_input_images=2).post("/v1/encode", json=body).status_code == 413


def test_image_bytes_are_limited_before_they_are_decoded(connect: Any) -> None:
    body = {"model": "shapes-vae", "image": "A" * 4000}
    answer = connect(max_image_bytes=1000).post("/v1/encode", json=body)
    assert answer.status_code == 413
    assert "1000" in answer.json()["error"]["message"]


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("count", [100, 20_000])
def test_a_flood_of_parts_is_413(client: Any, count: int, files: bool) -> None:
    body, headers = form([f"f{i}" for i in range(count)], files=files)
    answer = client.post("/v1/edit", content=body, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


FORMS = {
    "long field": (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"a" * 9000,
        413,
    ),
    "no boundary": (b"", 400),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 400),
    "garbage": (b"garbage" * 100, 400),
    "long header": (b"--b\r\nX: " + b"a" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n", 400),
    "many headers": (b"--b\r\n" + b"X: y\r\n" * 5000 + b"\r\nx\r\n--b--\r\n", 400),
    "field twice": (form(["model", "model"])[0], 422),
    "mask twice": (form(["mask", "mask"], files=True)[0], 422),
    "file as scalar": (form(["model"], files=True)[0], 422),
    "unknown field": (form(["model", "stepz"])[0], 422),
    "broken JSON": (form(["latents"])[0], 422),
    "no fields": (b"--b--\r\n", 422),
}


@pytest.mark.parametrize("name", FORMS)
def test_bad_form_is_a_typed_4xx(connect: Any, backend: Any, name: str) -> None:
    body, status = FORMS[name]
    boundary = "" if name == "no boundary" else "; boundary=b"
    headers = {"content-type": "multipart/form-data" + boundary}
    client = connect(max_field_bytes=8192)
    answer = client.post("/v1/edit", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"]
    assert not backend.calls


def test_files_where_none_are_taken(client: Any, image: Any) -> None:
    answer = client.post(
        "/v1/generate", data={"model": "shapes-ldm"}, files={"image": ("a", image(), "image/png")}
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "images"
