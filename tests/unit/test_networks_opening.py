"""A stored model becomes networks: verified, from the faster export, as measured once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

from model_store import architectures, shared_weights
from model_store.addition import add_model
from model_store.inspect_safetensors import check_safetensors
from model_store.limits import StoreLimits
from model_store.networks import export_choice, export_loading
from model_store.networks.measurements import Measurements, default_path
from model_store.networks.opening import open_model
from model_store.networks.torch_graph import load_module
from model_store.store import Store
from services.core.errors import IntegrityFailure, InvalidNetwork
from tests.unit.tiny_networks import LATENT, Generator, write_model

CPU = torch.device("cpu")
SHAPE = {"z": [LATENT]}


class TinyGenerator(nn.Module):
    """The torch twin of `tiny_networks.Generator`."""

    outputs = ("image",)

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENT, width, bias=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(z)).view(-1, 1, 4, 6)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str, config: dict[str, Any]) -> nn.Module:
        return TinyGenerator(**config)

    monkeypatch.setattr(architectures, "build", build)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", catalogs=())


@pytest.fixture
def measured(tmp_path: Path) -> Measurements:
    return Measurements(tmp_path / "cache" / "measurements.json", CPU, 2)


def write_twins(folder: Path, *, scale: float = 1.0, **safetensors_fields: Any) -> Path:
    """Both exports of the same weights."""
    generator = Generator()
    weight = torch.from_numpy(generator.weight.T.copy()) * scale
    write_model(folder, generator)
    data = safetensors.torch.save({"linear.weight": weight.half()})
    (folder / "generator.safetensors").write_bytes(data)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["networks"]["generator"]["safetensors"] = {
        "file": "generator.safetensors",
        "architecture": "tiny",
        **safetensors_fields,
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def test_an_opened_model_is_what_its_manifest_says(
    store: Store, measured: Measurements, tmp_path: Path
) -> None:
    folder = write_model(
        tmp_path / "gan", options={"labels": ["a"]}, metrics={"fid": 3.5}, description="mine"
    )
    add_model(store, folder)
    model = open_model(store, "my-gan", CPU, threads=2, measurements=measured)
    assert (model.id, model.family, model.description) == ("my-gan", "gan", "mine")
    assert (model.resolution, model.channels, model.pixel_range) == ((4, 6), 1, (-1, 1))
    assert model.options == {"labels": ["a"]}
    assert model.card == {"license": "unspecified", "metrics": {"fid": 3.5}}
    assert model.created > 0
    network = model.network("generator", inputs=["z"], outputs=["image"])
    z = torch.randn(3, LATENT)
    expected = torch.from_numpy(Generator().expected(z.numpy())).float()
    torch.testing.assert_close(network(z=z)["image"], expected)


def test_a_changed_file_is_not_opened(
    store: Store, measured: Measurements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(store, write_model(tmp_path / "gan"))
    blob = next((store.user.root / "blobs").iterdir())
    blob.chmod(0o644)
    blob.write_bytes(Generator(activation="Sigmoid").bytes())

    def reached(*_: Any, **__: Any) -> None:
        raise RuntimeError("a changed file was opened")

    monkeypatch.setattr(shared_weights, "parse_onnx", reached)
    monkeypatch.setattr(export_loading, "OnnxGraph", reached)
    with pytest.raises(IntegrityFailure):
        open_model(store, "my-gan", CPU, threads=2, measurements=measured)


def test_of_two_exports_the_faster_is_taken_and_remembered(
    store: Store, measured: Measurements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(store, write_twins(tmp_path / "gan"))
    asked: list[str] = []

    def torch_is_faster(network: Any) -> float:
        asked.append(network.backend)
        return 1.0 if network.backend.startswith("torch") else 2.0

    monkeypatch.setattr(export_choice, "seconds_of", torch_is_faster)

    def backend(**choice: Any) -> str:
        model = open_model(store, "my-gan", CPU, threads=2, measurements=measured, **choice)
        return str(model.networks["generator"].backend)  # type: ignore[attr-defined]

    assert backend().startswith("torch")
    assert len(asked) == 2
    assert backend().startswith("torch")
    assert len(asked) == 2
    assert backend(prefer="onnx").startswith("onnxruntime")
    (tmp_path / "cache" / "measurements.json").write_text("{ not json")
    assert backend().startswith("torch")
    assert len(asked) == 4
    entries = json.loads((tmp_path / "cache" / "measurements.json").read_text())["entries"]
    # How many threads were best is remembered too, where the machine has several cores to try.
    assert {e["where"]["what"] for e in entries.values()} - {"threads"} == {"rows", "seconds"}


def test_both_exports_give_the_same_images(
    store: Store, measured: Measurements, tmp_path: Path
) -> None:
    add_model(store, write_twins(tmp_path / "gan"))
    z = torch.randn(5, LATENT)
    images = []
    for export in ("onnx", "safetensors"):
        model = open_model(store, "my-gan", CPU, threads=2, prefer=export, measurements=measured)
        images.append(model.networks["generator"](z=z)["image"])
    torch.testing.assert_close(images[0], images[1], atol=1e-2, rtol=0)
    assert images[1].dtype == torch.float32


def test_exports_that_disagree_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidNetwork, match="disagree"):
        add_model(store, write_twins(tmp_path / "gan", scale=0.5))
    assert not store.list()


def test_weights_alone_need_the_shapes_of_their_inputs(store: Store, tmp_path: Path) -> None:
    folder = write_twins(tmp_path / "gan")
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    del manifest["networks"]["generator"]["onnx"]
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(InvalidNetwork, match="shapes"):
        add_model(store, folder)
    manifest["networks"]["generator"]["safetensors"]["shapes"] = SHAPE
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    assert add_model(store, folder).manifest.id == "my-gan"


@pytest.mark.parametrize(
    ("weights", "config", "reason"),
    [
        ({"other": torch.zeros(24, LATENT)}, {}, "lacks|foreign"),
        ({"linear.weight": torch.zeros(25, LATENT)}, {}, "shape"),
        ({"linear.weight": torch.zeros(24, LATENT)}, {"width": 10**9}, "larger network"),
        ({"linear.weight": torch.zeros(24, LATENT)}, {"depth": 3}, "cannot be built"),
        ({"linear.weight": torch.zeros(24, LATENT)}, {"width": "wide"}, "cannot be built"),
    ],
)
def test_weights_that_are_not_the_architectures_are_refused(
    weights: dict[str, torch.Tensor], config: dict[str, object], reason: str
) -> None:
    data = safetensors.torch.save(weights)
    shapes = check_safetensors("w", data, StoreLimits())
    with pytest.raises(InvalidNetwork, match=reason):
        load_module(data, shapes, name="generator", architecture="tiny", config=config)


def test_measurements_follow_the_environment() -> None:
    path = default_path({"XDG_CACHE_HOME": "/cache"})
    assert path == Path("/cache/atelier/measurements.json")
    assert default_path({}) == Path.home() / ".cache/atelier/measurements.json"


def test_a_cache_that_cannot_be_written_is_no_failure(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = Measurements(tmp_path / "file" / "measurements.json", CPU, 2)
    add_model(store, write_model(tmp_path / "gan"))
    assert open_model(store, "my-gan", CPU, threads=2, measurements=nowhere).networks
