"""Edits of style-based generators over HTTP: every field arrives as it was said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from services.core.parameters import Latents

LATENTS = Latents.from_array(np.zeros((2, 3), np.float32)).model_dump()
EDITS: dict[str, Any] = {
    "attributes": {"size": 1.5, "pca_1": -2.0},
    "layers": [0, 3],
    "channels": {"12": 0.5},
}


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        (
            "generate",
            {"truncation": 0.0, "noise_strength": 0.5, "latents": LATENTS, "latent_space": "w+"},
        ),
        ("edit", {"operation": "attribute", **EDITS}),
        ("edit", {"operation": "style_mix", "seeds": [1, 2], "layer": 3}),
        ("edit", {"operation": "traverse", "attribute": "size", "range": [-2.0, 2.0]}),
        ("edit", {"operation": "interpolate", "latent_space": "z", "seeds": [1, 2]}),
    ],
)
def test_a_request_reaches_the_model_as_it_was_said(
    client: TestClient, backend: Any, route: str, fields: dict[str, Any]
) -> None:
    answer = client.post(f"/v1/{route}", json={"model": "shapes-ldm", "seed": 1, **fields})
    assert answer.status_code == 200, answer.text
    (call,) = backend.calls
    expected = {k: v for k, v in fields.items() if k != "operation"}
    assert {k: v for k, v in call.parameters.items() if k != "seed"} == expected


def test_in_a_form_attributes_are_written_as_json(
    client: TestClient, backend: Any, image: Callable[..., bytes]
) -> None:
    answer = client.post(
        "/v1/edit",
        data={
            "model": "shapes-ldm",
            "operation": "attribute",
            **{name: json.dumps(value) for name, value in EDITS.items()},
        },
        files={"image": ("a.png", image())},
    )
    assert answer.status_code == 200, answer.text
    (call,) = backend.calls
    assert {name: call.parameters[name] for name in EDITS} == EDITS


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"attributes": {f"a{i}": 1 for i in range(65)}}, "attributes"),
        ({"attributes": {"a": "much"}}, "attributes"),
        ({"channels": {"first": 1}}, "channels"),
        ({"layers": [1]}, "layers"),
        ({"latent_space": "y"}, "latent_space"),
    ],
)
def test_what_no_model_could_take_goes_no_further(
    client: TestClient, backend: Any, fields: dict[str, Any], param: str
) -> None:
    body = {"model": "shapes-ldm", "operation": "attribute", **fields}
    answer = client.post("/v1/edit", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param
    assert not backend.calls
