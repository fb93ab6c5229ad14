"""The unmodified ``InferenceClient`` of ``huggingface_hub``, with the model's URL."""

from __future__ import annotations

import base64
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.e2e.asks import pixels, png
from tests.e2e.running import REQUEST_SECONDS, Server

PROMPT = "a large red star on black"


def speak(server: Server, model: str, task: str) -> huggingface_hub.InferenceClient:
    url = f"{server.url}/hf/{model}/{task}"
    return huggingface_hub.InferenceClient(base_url=url, timeout=REQUEST_SECONDS)


def native(server: Server, path: str = "/v1/generate", **body: Any) -> Any:
    answer = server.post(path, {"model": "shapes-ldm", **body}).raise_for_status().json()
    return pixels(base64.b64decode(answer["data"][0]["b64_json"]))


def test_a_prompt_becomes_the_image_of_the_native_route(server: Server):
    image = speak(server, "shapes-ldm", "text-to-image").text_to_image(
        PROMPT,
        negative_prompt="a small circle",
        guidance_scale=2.0,
        num_inference_steps=4,
        scheduler="DDIMScheduler",
        width=32,
        height=32,
        seed=7,
    )
    expected = native(
        server,
        prompt=PROMPT,
        negative_prompt="a small circle",
        guidance_scale=2.0,
        steps=4,
        sampler="ddim",
        seed=7,
    )
    assert np.array_equal(np.asarray(image), expected)


def test_an_image_becomes_another(server: Server):
    client = speak(server, "shapes-ldm", "image-to-image")
    image = client.image_to_image(png(1, 32), PROMPT, num_inference_steps=4, strength=0.5, seed=7)
    expected = native(
        server,
        "/v1/edit",
        operation="variation",
        image=base64.b64encode(png(1, 32)).decode(),
        prompt=PROMPT,
        steps=4,
        strength=0.5,
        seed=7,
    )
    assert np.array_equal(np.asarray(image), expected)
    assert client.image_to_image(png(1, 32)).size == (32, 32)


def test_refusals_are_its_error_with_the_sentence(server: Server):
    for model, asked, status, said in (
        ("shapes-ldn", {}, 404, "shapes-ldm"),
        ("shapes-ldm", {"width": 512, "height": 512}, 422, "32x32"),
        ("shapes-ldm", {"num_inference_steps": 0}, 422, "num_inference_steps"),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            speak(server, model, "text-to-image").text_to_image(PROMPT, **asked)
        assert caught.value.response.status_code == status
        assert said in caught.value.response.json()["error"]
