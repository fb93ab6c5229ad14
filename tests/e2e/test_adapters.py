"""A diffusers folder and adapters for it are added while the service runs, and served at once."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_adapters, tiny_pipelines
from tests.e2e.asks import png, raw
from tests.e2e.running import ROOT, Server

BASE, STYLE, CONTROL = "tiny-sd", "loud-colours", "outlines"
PROMPT = "a red cat on the moon"


def atelier_models(store: Path, *arguments: str) -> None:
    """What an operator types."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "models", *arguments],
        cwd=ROOT,
        env=os.environ | {"ATELIER_STORE": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def added(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store that also holds a tiny Stable Diffusion, a LoRA and a ControlNet of it."""
    folder = tmp_path_factory.mktemp("strangers")
    pipeline = tiny_pipelines.stable_diffusion(folder / BASE)
    changes = tiny_adapters.pairs(pipeline.unet, ("to_q", "conv1", "conv_out"))
    lora = tiny_adapters.saved(tiny_adapters.peft("unet", changes), folder / f"{STYLE}.safetensors")
    tiny_adapters.controlnet(pipeline.unet, folder / CONTROL)
    atelier_models(store, "add", str(folder / BASE))
    atelier_models(store, "add", str(lora), "--name", STYLE, "--base", BASE)
    atelier_models(store, "add", str(folder / CONTROL), "--name", CONTROL, "--base", BASE)
    yield store
    for name in (STYLE, CONTROL, BASE):
        atelier_models(store, "remove", name)


@pytest.fixture(scope="module")
def outlines() -> str:
    """A picture for the ControlNet to hear, as JSON carries it."""
    return base64.b64encode(png(3, 32)).decode()


def picture(server: Server, **asked: Any) -> bytes:
    """The pixels that a request gives."""
    body = {"model": BASE, "prompt": PROMPT, "steps": 4, "seed": 5, **asked}
    answer = server.post("/v1/generate", body)
    assert answer.status_code == 200, answer.text
    return raw(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def test_rows_with_and_without_adapters_are_served_beside_each_other(
    server: Server, added: Path, outlines: str
) -> None:
    asks: list[dict[str, Any]] = [
        {},
        {"adapters": [{"name": STYLE}]},
        {"adapters": [{"name": STYLE, "scale": 0.5}]},
        {"control": [{"name": CONTROL, "image": outlines}]},
        {"adapters": [{"name": STYLE}], "control": [{"name": CONTROL, "image": outlines}]},
    ]
    alone = [picture(server, **ask) for ask in asks]
    assert len(set(alone)) == len(asks)
    with ThreadPoolExecutor(len(asks)) as pool:
        together = list(pool.map(lambda ask: picture(server, **ask), asks))
    assert together == alone


def test_a_model_lists_its_adapters_and_names_them_where_one_is_unknown(
    server: Server, added: Path
) -> None:
    listed = server.get(f"/v1/models/{BASE}")
    assert {STYLE, CONTROL} <= {adapter["name"] for adapter in listed["adapters"]}
    refused = server.post(
        "/v1/generate", {"model": BASE, "prompt": PROMPT, "adapters": [{"name": "loud-colour"}]}
    )
    assert refused.status_code in {404, 422}
    assert STYLE in refused.json()["error"]["message"]
