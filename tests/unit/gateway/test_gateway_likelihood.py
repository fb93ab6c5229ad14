"""Likelihood and encode."""

from __future__ import annotations

import base64
import json
from typing import Any

from services.core.errors import UnsupportedTask


def test_likelihood_of_a_file_as_curl_sends_it(client: Any, backend: Any, image: Any) -> None:
    answer = client.post(
        "/v1/likelihood",
        data={"model": "digits-realnvp", "samples": "4"},
        files={"image": ("digit.png", image(), "application/octet-stream")},
    )
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"model", "data", "timings"}
    assert body["data"][0]["log_likelihood"] == -12.5
    (call,) = backend.calls
    assert call.parameters == {"samples": 4}
    assert call.name == "likelihood"


def test_numbers_that_json_cannot_write_are_null(client: Any, image: Any) -> None:
    text = base64.b64encode(image()).decode()
    answer = client.post("/v1/likelihood", json={"model": "digits-realnvp", "images": [text] * 2})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    entries = json.loads(answer.text, parse_constant=refuse)["data"]
    assert len(entries) == 2
    assert entries[0]["bits_per_dim"] is None
    assert entries[0]["terms"] == {"log_prior": None, "log_det": 1.0}


def test_encode_gives_latents_that_generate_takes(client: Any, backend: Any, image: Any) -> None:
    text = base64.b64encode(image()).decode()
    encoded = client.post("/v1/encode", json={"model": "shapes-vae", "image": text}).json()
    latents = encoded["data"][0]["latents"]
    again = client.post("/v1/generate", json={"model": "shapes-vae", "latents": latents})
    assert again.status_code == 200
    assert backend.calls[-1].parameters["latents"] == latents


def test_what_a_model_cannot_do_says_why(client: Any, backend: Any, image: Any) -> None:
    backend.error = UnsupportedTask("a GAN has no density; use digits-realnvp", param="model")
    text = base64.b64encode(image()).decode()
    answer = client.post("/v1/likelihood", json={"model": "shapes-cgan", "image": text})
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "message": "a GAN has no density; use digits-realnvp",
        "type": "invalid_request_error",
        "param": "model",
        "code": "unsupported_task",
    }
