"""KServe v2: what is malformed or not allowed is refused in one sentence, before any work."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest


def entry(name: str = "seed", shape: Any = (1,), kind: Any = "INT64", **more: Any) -> Any:
    return {"name": name, "shape": list(shape), "datatype": kind, **more}


def sized(size: Any, **more: Any) -> Any:
    return entry(parameters={"binary_data_size": size}, **more)


EIGHT = struct.pack("<q", 7)
MALFORMED: dict[str, tuple[Any, bytes, int, str]] = {
    "no inputs": ({}, b"", 422, "inputs"),
    "unknown field": ({"inputs": [], "input": 1}, b"", 422, "input"),
    "unknown input": ({"inputs": [entry("sead", data=[1])]}, b"", 422, "seed"),
    "twice": ({"inputs": [entry(data=[1]), entry(data=[1])]}, b"", 422, "twice"),
    "neither values nor bytes": ({"inputs": [entry()]}, b"", 422, "binary_data_size"),
    "both": ({"inputs": [sized(8, data=[7])]}, EIGHT, 422, "not both"),
    "another datatype": ({"inputs": [entry(kind="FP32", data=[1])]}, b"", 422, "INT64"),
    "no such datatype": ({"inputs": [entry(kind="INT3", data=[1])]}, b"", 422, "UINT8"),
    "another rank": ({"inputs": [entry(shape=(1, 1), data=[1])]}, b"", 422, "[-1]"),
    "a negative size": ({"inputs": [entry(shape=(-1,), data=[1])]}, b"", 422, "shape"),
    "no rows": ({"inputs": [entry(shape=(0,), data=[])]}, b"", 422, "empty"),
    "a huge shape": ({"inputs": [entry(shape=[2**24] * 6, data=[1])]}, b"", 422, "needs"),
    "an endless shape": ({"inputs": [entry(shape=[1] * 7, data=[1])]}, b"", 422, "shape"),
    "too few values": ({"inputs": [entry(shape=(2,), data=[1])]}, b"", 422, "needs 2"),
    "a word for a number": ({"inputs": [entry(data=["1"])]}, b"", 422, "INT64"),
    "a fraction": ({"inputs": [entry(data=[1.5])]}, b"", 422, "INT64"),
    "true": ({"inputs": [entry(data=[True])]}, b"", 422, "INT64"),
    "beyond 64 bits": ({"inputs": [entry(data=[2**63])]}, b"", 422, "from"),
    "a negative seed": ({"inputs": [entry(data=[-1])]}, b"", 422, "seed"),
    "too few bytes": ({"inputs": [sized(4)]}, EIGHT[:4], 422, "needs 8"),
    "missing bytes": ({"inputs": [sized(8)]}, EIGHT[:4], 400, "holds 4"),
    "bytes left over": ({"inputs": [sized(8)]}, EIGHT + b"!", 400, "belong to no input"),
    "a negative length": ({"inputs": [sized(-8)]}, EIGHT, 422, "binary_data_size"),
    "a length of true": ({"inputs": [sized(True)]}, EIGHT, 422, "binary_data_size"),
    "shared memory": (
        {"inputs": [entry(parameters={"shared_memory_region": "r"}, data=[1])]},
        b"",
        422,
        "shared memory",
    ),
    "infinite numbers": (
        {"inputs": [entry("latents", (1, 2), "FP32", parameters={"binary_data_size": 8})]},
        struct.pack("<ff", 1.0, float("inf")),
        422,
        "finite",
    ),
    "beyond 32 bits": (
        {"inputs": [entry("latents", (1, 1), "FP32", data=[1e300])]},
        b"",
        422,
        "finite",
    ),
    "a text cut off": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 6})]},
        struct.pack("<I", 9) + b"re",
        422,
        "9 bytes",
    ),
    "a text's length cut off": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 2})]},
        b"\1\0",
        422,
        "length",
    ),
    "more texts than rows": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 8})]},
        bytes(8),
        422,
        "needs 1",
    ),
    "no UTF-8": (
        {"inputs": [entry("prompt", (1,), "BYTES", parameters={"binary_data_size": 5})]},
        struct.pack("<I", 1) + b"\xff",
        422,
        "UTF-8",
    ),
    "NUL": ({"inputs": [entry("prompt", (1,), "BYTES", data=["\0"])]}, b"", 422, "NUL"),
    "a long prompt": (
        {"inputs": [entry("prompt", (1,), "BYTES", data=["a" * 3000])]},
        b"",
        413,
        "2000",
    ),
    "an output nobody has": ({"inputs": [], "outputs": [{"name": "imagine"}]}, b"", 422, "image"),
    "an output twice": (
        {"inputs": [], "outputs": [{"name": "image"}, {"name": "image"}]},
        b"",
        422,
        "twice",
    ),
    "classification": (
        {"inputs": [], "outputs": [{"name": "image", "parameters": {"classification": 3}}]},
        b"",
        422,
        "classification",
    ),
    "an unknown parameter": ({"inputs": [], "parameters": {"stepz": 1}}, b"", 422, "stepz"),
    "a nested parameter": ({"inputs": [], "parameters": {"steps": [1]}}, b"", 422, "parameters"),
    "a parameter out of range": ({"inputs": [], "parameters": {"steps": 0}}, b"", 422, "steps"),
    "a field of other routes": (
        {"inputs": [], "parameters": {"response": "stream"}},
        b"",
        422,
        "response",
    ),
    "an unknown operation": ({"inputs": [], "parameters": {"operation": "x"}}, b"", 422, "operat"),
    "a sequence": ({"inputs": [], "parameters": {"sequence_id": 1}}, b"", 422, "sequences"),
    "no time": ({"inputs": [], "parameters": {"timeout": 0}}, b"", 422, "microseconds"),
    "rows that do not match": (
        {
            "inputs": [
                entry(shape=(2,), data=[1, 2]),
                entry("prompt", (3,), "BYTES", data=["a"] * 3),
            ]
        },
        b"",
        422,
        "rows",
    ),
    "too many rows": ({"inputs": [entry(shape=(65,), data=[1] * 65)]}, b"", 413, "64"),
    "n of rows": (
        {"inputs": [entry(shape=(2,), data=[1, 2])], "parameters": {"n": 2}},
        b"",
        422,
        "'n'",
    ),
    "seed twice": (
        {"inputs": [entry(data=[1])], "parameters": {"seed": 2}},
        b"",
        422,
        "both",
    ),
    "no image file": (
        {
            "inputs": [entry("image_file", (1,), "BYTES", data=["GIF89a"])],
            "parameters": {"operation": "variation"},
        },
        b"",
        415,
        "PNG",
    ),
    "an image to generate from": (
        {
            "inputs": [entry("image", (1, 1, 1, 3), "UINT8", data=[1, 2, 3])],
            "parameters": {"operation": "generate"},
        },
        b"",
        422,
        "takes no image",
    ),
    "an image of other channels": (
        {"inputs": [entry("image", (1, 1, 1, 4), "UINT8", data=[1, 2, 3, 4])]},
        b"",
        422,
        "shape",
    ),
    "256": ({"inputs": [entry("image", (1, 1, 1, 3), "UINT8", data=[0, 0, 256])]}, b"", 422, "255"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed_is_refused_before_any_work(client: Any, backend: Any, what: str) -> None:
    head, rest, status, said = MALFORMED[what]
    backend.catalog["shapes-ldm"].operations.update(variation={"type": "object"})
    backend.catalog["shapes-ldm"].operations["generate"]["properties"] = {"latents": {}}
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if rest else {}
    answer = client.post("/v2/models/shapes-ldm/infer", content=text + rest, headers=headers)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert not backend.calls


@pytest.mark.parametrize("length", ["0", "-1", "9999", "1e1", "", "٣", "9" * 30])
def test_a_header_length_outside_of_the_body_is_refused(client: Any, length: str) -> None:
    headers = [(b"inference-header-content-length", length.encode())]
    answer = client.post("/v2/models/shapes-ldm/infer", content=b'{"inputs":[]}', headers=headers)
    assert answer.status_code == 400
    assert "1 to 13" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content-encoding": "gzip"}, 415), ({"content-type": "text/html"}, 415)],
)
def test_other_encodings_are_refused(client: Any, headers: Any, status: int) -> None:
    answer = client.post("/v2/models/shapes-ldm/infer", content=b"{}", headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/shapes-ldn", 404),
        ("GET", "/v2/nowhere", 404),
        ("DELETE", "/v2", 405),
        ("GET", f"/v2/models/{'x' * 200}", 422),
    ],
)
def test_every_error_is_a_sentence(client: Any, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)


def test_a_body_over_the_limit_is_refused_in_the_same_words(connect: Any) -> None:
    client = connect(max_body_bytes=100)
    answer = client.post("/v2/models/shapes-ldm/infer", content=b" " * 101)
    assert (answer.status_code, list(answer.json())) == (413, ["error"])


def test_tritons_timeout_is_the_deadline(client: Any, backend: Any) -> None:
    body = {"inputs": [], "parameters": {"timeout": 5_000_000, "priority": 1}}
    assert client.post("/v2/models/shapes-ldm/infer", json=body).status_code == 200
    assert 4 < backend.calls[0].deadline <= 5


def test_a_wrong_key_is_refused(connect: Any) -> None:
    client = connect(api_keys=["0" * 64])
    answer = client.post("/v2/models/shapes-ldm/infer", json={"inputs": []})
    assert answer.status_code == 401
    assert isinstance(answer.json()["error"], str)


def test_a_bug_is_a_sentence_too(client: Any, backend: Any) -> None:
    backend.error = ZeroDivisionError("secret")
    answer = client.post("/v2/models/shapes-ldm/infer", json={"inputs": []})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert isinstance(answer.json()["error"], str)
