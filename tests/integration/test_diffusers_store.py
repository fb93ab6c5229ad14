"""An imported pipeline in the store: hashed, verified before it is opened, and removed whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.networks.opening import open_model
from model_store.store import Store
from services.cli import app
from services.core.errors import IntegrityFailure
from tests import tiny_pipelines
from tests.engines import CPU


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "tiny-ddpm"
    tiny_pipelines.ddpm(path)
    return path


def add(folder: Path, root: Path, *options: str) -> str:
    command = ["models", "add", str(folder), "--store", str(root), *options]
    result = CliRunner().invoke(app, command)
    return f"{result.exit_code}: {result.output}"


def test_one_command_adds_a_folder_and_one_removes_it(folder: Path, tmp_path: Path) -> None:
    said = add(folder, tmp_path, "--name", "my-ddpm")
    assert said.startswith("0:")
    assert "DDPMPipeline" in said
    store = Store(tmp_path, catalogs=())
    manifest = store.get("my-ddpm")
    assert manifest.pipeline is not None
    assert all(file.sha256 for file in manifest.stored_files())
    assert not store.verify("my-ddpm")
    store.remove("my-ddpm")
    assert list((tmp_path / "blobs").iterdir()) == []


def test_a_pipeline_is_of_one_family(folder: Path, tmp_path: Path) -> None:
    said = add(folder, tmp_path, "--family", "gan")
    assert not said.startswith("0:")
    assert "diffusion" in said


@pytest.mark.parametrize("file", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_file_that_was_changed_is_not_opened(folder: Path, tmp_path: Path, file: str) -> None:
    add(folder, tmp_path)
    store = Store(tmp_path, catalogs=())
    manifest = store.get("tiny-ddpm")
    assert manifest.pipeline is not None
    stored = manifest.pipeline.components["unet"].files[file]
    blob = tmp_path / "blobs" / str(stored.sha256)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityFailure, match="not the file that was stored"):
        open_model(store, "tiny-ddpm", CPU, threads=1)
