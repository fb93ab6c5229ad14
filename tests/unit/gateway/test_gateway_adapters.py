"""Adapters over HTTP: names and scales arrive as they were said, images of controls as files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

STYLES = [{"name": "pixel-style", "scale": 0.8}, {"name": "ink"}]


def text_of(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def test_adapters_and_controls_reach_the_model(
    client: TestClient, backend: Any, image: Callable[..., bytes]
) -> None:
    picture = image()
    control = {"name": "edges", "image": text_of(picture), "scale": 0.5, "start": 0.0, "end": 0.6}
    body = {"model": "shapes-ldm", "adapters": STYLES, "control": [control], "seed": 1}
    answer = client.post("/v1/generate", json=body)
    assert answer.status_code == 200, answer.text
    (call,) = backend.calls
    assert call.controls == (picture,)
    told = {"name": "edges", "scale": 0.5, "start": 0.0, "end": 0.6}
    assert call.parameters == {"adapters": STYLES, "control": [told], "seed": 1}


def test_in_a_form_they_are_written_as_json(
    client: TestClient, backend: Any, image: Callable[..., bytes]
) -> None:
    control = json.dumps([{"name": "edges", "image": text_of(image())}])
    fields = {"model": "shapes-ldm", "operation": "variation", "control": control}
    answer = client.post("/v1/edit", data=fields, files={"image": image()})
    assert answer.status_code == 200, answer.text
    (call,) = backend.calls
    assert len(call.controls) == len(call.images) == 1
    assert call.parameters["control"] == [{"name": "edges"}]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"adapters": [{"name": "x", "scale": 9}]}, 422, "adapters"),
        ({"adapters": []}, 422, "adapters"),
        ({"adapters": ["pixel-style"]}, 422, "adapters"),
        ({"control": [{"name": "edges"}]}, 422, "control"),
        ({"control": [{"name": "edges", "image": "AAAA"}]}, 415, "control"),
        ({"control": [{"name": "edges", "image": "http://somewhere/a.png"}]}, 422, "control"),
    ],
)
def test_what_is_no_adapter_is_refused_by_its_field(
    client: TestClient, backend: Any, fields: dict[str, Any], status: int, param: str
) -> None:
    answer = client.post("/v1/generate", json={"model": "shapes-ldm", **fields})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert not backend.calls


def test_a_model_lists_its_adapters(client: TestClient) -> None:
    assert client.get("/v1/models/shapes-ldm").json()["adapters"] == []
