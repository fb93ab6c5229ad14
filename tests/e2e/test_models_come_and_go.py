"""A model that is added is served without a restart; one that is removed is gone."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

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


def test_an_added_model_is_served_without_a_restart_and_a_removed_one_is_gone(
    server: Server, store: Path, exported: Path, generator: Generator
):
    z = np.random.default_rng(3).standard_normal(LATENT).astype(np.float32)
    latents = Latents.from_array(z).model_dump()
    ask = {"model": NAME, "latents": latents, "seed": 1}
    assert server.post("/v1/generate", ask).status_code == 404
    atelier_models(store, "add", str(exported), "--name", NAME)
    try:
        answer = server.post("/v1/generate", ask).raise_for_status().json()
        assert server.models()[NAME]["family"] == "gan"
    finally:
        atelier_models(store, "remove", NAME)
    with torch.no_grad():
        image = generator(torch.from_numpy(z)[None])[0].permute(1, 2, 0).numpy()
    served = pixels(base64.b64decode(answer["data"][0]["b64_json"])).astype(float)
    assert np.abs(served - (image + 1) / 2 * 255).max() <= 1
    assert server.post("/v1/generate", ask).status_code == 404
    assert NAME not in server.models()
