"""A model that is added, changed or removed is so for a running service."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from services.core.parameters import Latents
from tests.e2e.asks import pixels
from tests.e2e.running import ROOT, Server

NAME = "blobs"
LATENT, SIDE = 6, 12
PATIENCE_SECONDS = 120.0


class Generator(nn.Module):
    """A few numbers to a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Linear(LATENT, 8 * (SIDE // 2) ** 2)
        self.paint = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        field = torch.relu(self.spread(z)).view(-1, 8, SIDE // 2, SIDE // 2)
        painted: Tensor = torch.tanh(self.paint(field))
        return painted


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(5)
    return Generator().eval()


@pytest.fixture(scope="module")
def exported(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    torch.onnx.export(
        generator,
        (torch.randn(2, LATENT),),
        folder / "generator.onnx",
        input_names=["z"],
        output_names=["image"],
        dynamic_shapes={"z": {0: torch.export.Dim("n", min=1, max=64)}},
        dynamo=True,
        verbose=False,
    )
    manifest = {
        "id": "generator",
        "family": "gan",
        "resolution": [SIDE, SIDE],
        "channels": 3,
        "pixel_range": [-1, 1],
        "networks": {"generator": {"onnx": {"file": "generator.onnx"}}},
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def atelier_models(store: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "services.cli", "models", *arguments],
        cwd=ROOT,
        env=os.environ | {"ATELIER_STORE": str(store)},
        check=True,
        capture_output=True,
    )


def changed(server: Server, ask: dict[str, Any], before: str) -> dict[str, Any]:
    """The first answer of another version; every one until then has to be an answer too."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        answer: dict[str, Any] = server.post("/v1/generate", ask).raise_for_status().json()
        if answer["digest"] != before:
            return answer
    raise TimeoutError("the new version did not take over")


def test_an_added_model_is_served_without_a_restart_and_a_removed_one_is_gone(
    server: Server, store: Path, exported: Path, generator: Generator, tmp_path: Path
):
    z = np.random.default_rng(3).standard_normal(LATENT).astype(np.float32)
    latents = Latents.from_array(z).model_dump()
    ask = {"model": NAME, "latents": latents, "seed": 1}
    assert server.post("/v1/generate", ask).status_code == 404
    atelier_models(store, "add", str(exported), "--name", NAME)
    try:
        answer = server.post("/v1/generate", ask).raise_for_status().json()
        assert server.models()[NAME]["family"] == "gan"
        told = yaml.safe_load((exported / "manifest.yaml").read_text())
        darker = shutil.copytree(exported, tmp_path / "darker")
        (darker / "manifest.yaml").write_text(yaml.safe_dump(told | {"pixel_range": [-1, 9]}))
        atelier_models(store, "update", str(darker), "--name", NAME)
        later = changed(server, ask, answer["digest"])
        pinned = server.post("/v1/generate", ask | {"model": f"{NAME}@{answer['digest']}"})
    finally:
        atelier_models(store, "remove", NAME)
    with torch.no_grad():
        image = generator(torch.from_numpy(z)[None])[0].permute(1, 2, 0).numpy()
    served = pixels(base64.b64decode(answer["data"][0]["b64_json"])).astype(float)
    assert np.abs(served - (image + 1) / 2 * 255).max() <= 1
    dark = pixels(base64.b64decode(later["data"][0]["b64_json"])).astype(float)
    assert np.abs(dark - (image + 1) / 10 * 255).max() <= 1
    again = pinned.raise_for_status().json()
    assert again["digest"] == answer["digest"]
    assert (pixels(base64.b64decode(again["data"][0]["b64_json"])) == served).all()
    assert server.post("/v1/generate", ask).status_code == 404
    assert NAME not in server.models()
