"""Guidance and edits of diffusion models over HTTP: every field arrives as it was said."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

GUIDED: dict[str, Any] = {
    "prompts": [{"prompt": "red", "weight": 0.5}, {"prompt": "circle"}],
    "guidance_scale": 3.0,
    "guidance_interval": [0.25, 0.75],
    "guidance_rescale": 0.7,
    "adaptive_guidance": 0.9,
    "dynamic_threshold": 0.995,
    "classifier_scale": 2.0,
}


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("generate", {**GUIDED, "variation_seed": 4, "variation_strength": 0.25}),
        ("edit", {"operation": "outpaint", "left": 4, "top": 0, "right": 2, "bottom": 1}),
        ("edit", {**GUIDED, "operation": "invert", "source_prompt": "a ring", "strength": 0.5}),
        ("edit", {"operation": "interpolate", "prompt": "a", "end_prompt": "b"}),
    ],
)
def test_a_request_reaches_the_model_as_it_was_said(
    client: TestClient,
    backend: Any,
    image: Callable[..., bytes],
    route: str,
    fields: dict[str, Any],
) -> None:
    body = {"model": "shapes-ldm", "seed": 1, **fields}
    if route == "edit":
        body["image"] = base64.b64encode(image()).decode()
    answer = client.post(f"/v1/{route}", json=body)
    assert answer.status_code == 200, answer.text
    (call,) = backend.calls
    expected = {k: v for k, v in fields.items() if k != "operation"}
    assert {k: v for k, v in call.parameters.items() if k != "seed"} == expected


def test_in_a_form_lists_are_written_as_json(
    client: TestClient, backend: Any, image: Callable[..., bytes]
) -> None:
    answer = client.post(
        "/v1/edit",
        data={
            "model": "shapes-ldm",
            "operation": "invert",
            "prompts": json.dumps(GUIDED["prompts"]),
            "guidance_interval": "[0.25, 0.75]",
        },
        files={"image": ("a.png", image())},
    )
    assert answer.status_code == 200, answer.text
    (call,) = backend.calls
    assert call.parameters["prompts"] == GUIDED["prompts"]
    assert call.parameters["guidance_interval"] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("route", "fields", "param"),
    [
        ("generate", {"prompts": [{"prompt": "x"}, {"prompt": "y" * 21}]}, "prompts"),
        ("edit", {"operation": "interpolate", "end_prompt": "y" * 21}, "end_prompt"),
        ("edit", {"operation": "invert", "source_prompt": "y" * 21}, "source_prompt"),
    ],
)
def test_every_prompt_is_under_the_operators_limit(
    connect: Callable[..., TestClient], backend: Any, route: str, fields: dict[str, Any], param: str
) -> None:
    client = connect(max_prompt_chars=20)
    answer = client.post(f"/v1/{route}", json={"model": "shapes-ldm", **fields})
    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == param
    assert not backend.calls
