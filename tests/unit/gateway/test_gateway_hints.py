"""A refusal names no model that the key may not use."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.gateway.app import create_app
from services.gateway.key_store import KeyStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.cascade import Cascades
from services.serving.in_process import InProcessBackend

OTHERS = ("tiny-flow", "tiny-vae", "tiny-super_resolution")


@pytest.fixture
def post(tiny_backend: InProcessBackend, tmp_path: Path) -> Callable[..., Any]:
    """Posts with a key for the GAN and the diffusion model alone, or for every model."""
    store = KeyStore(tmp_path / "keys.json")
    keys = {
        True: store.create("limited", models=("tiny-gan", "tiny-diffusion")).text,
        False: store.create("free").text,
    }
    settings = GatewaySettings(key_file=tmp_path / "keys.json", default_model="tiny-diffusion")
    metrics = GatewayMetrics(CollectorRegistry())
    client = TestClient(create_app(Cascades(tiny_backend), settings, metrics=metrics))

    def ask(path: str, body: Any, *, limited: bool) -> Any:
        headers = {"authorization": f"Bearer {keys[limited]}"}
        return client.post(path, json=body, headers=headers)

    return ask


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/generate", {"model": "tiny-gan", "cascade": "tiny-diffusion"}, 422),
        ("/v1/encode", {"model": "tiny-gan", "images": ["{image}"]}, 422),
        ("/v1/likelihood", {"model": "tiny-gan", "images": ["{image}"]}, 422),
        ("/v1/generate", {"model": "tiny-vee"}, 403),
        ("/v1/generate", {"model": "tiny-gen"}, 403),
        ("/v1/images/generations", {"model": "tiny-flaw", "prompt": "x"}, 403),
        ("/v2/models/tiny-flaw/infer", {"inputs": []}, 403),
    ],
)
def test_a_limited_key_hears_of_no_other_model(
    post: Callable[..., Any],
    image: Callable[..., bytes],
    path: str,
    body: dict[str, Any],
    status: int,
) -> None:
    if "images" in body:
        body = {**body, "images": [base64.b64encode(image()).decode()]}
    answer = post(path, body, limited=True)
    assert answer.status_code == status, answer.text
    assert not [name for name in OTHERS if name in answer.text]
    assert "x-request-id" in answer.headers


def test_a_free_key_is_told_what_can(post: Callable[..., Any], image: Callable[..., bytes]) -> None:
    body = {"model": "tiny-gan", "images": [base64.b64encode(image()).decode()]}
    assert "tiny-flow" in post("/v1/likelihood", body, limited=False).text
    cascade = {"model": "tiny-gan", "cascade": "tiny-diffusion"}
    assert "tiny-super_resolution" in post("/v1/generate", cascade, limited=False).text


@pytest.mark.parametrize(
    ("path", "sentence"), [("/v2/config", True), ("/v2/x", True), ("/hf/x/y", True), ("/v3", False)]
)
def test_an_unknown_path_has_its_prefixs_envelope_and_an_id(
    post: Callable[..., Any], path: str, sentence: bool
) -> None:
    answer = post(path, {}, limited=True)
    assert answer.status_code in (404, 405)
    assert isinstance(answer.json()["error"], str) is sentence
    assert len(answer.headers.get_list("x-request-id")) == 1
