"""An imported pipeline in the store: hashed, verified before it is opened, and removed whole."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
from typer.testing import CliRunner

from model_store.addition import add_model
from model_store.importers.pipelines import import_pipeline
from model_store.limits import StoreLimits
from model_store.networks.opening import open_model
from model_store.reading import DraftedFiles
from model_store.store import Store
from services.cli import app
from services.core.errors import IntegrityFailure, TooLarge
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


SMALL = 16 << 10
"""Bytes that configurations have room in, and weights have not."""


def weights_of(folder: Path) -> Path:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert path.stat().st_size > SMALL
    return path


def test_weights_are_never_read_into_memory_whole(folder: Path, tmp_path: Path) -> None:
    """What is read whole has little room here; weights go from file to file in chunks."""
    weights_of(folder)
    store = Store(tmp_path, catalogs=(), limits=StoreLimits(file_bytes=SMALL, model_bytes=SMALL))
    add_model(store, folder, threads=1)
    assert store.verify("tiny-ddpm") == []
    model = open_model(store, "tiny-ddpm", CPU, threads=1)
    assert set(model.networks) == {"denoiser"}
    with pytest.raises(TooLarge):
        store.read("tiny-ddpm", "unet.diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("limit", ["weight_bytes", "pipeline_bytes"])
def test_streamed_weights_have_limits_too(folder: Path, tmp_path: Path, limit: str) -> None:
    store = Store(tmp_path, catalogs=(), limits=StoreLimits(**{limit: SMALL}))
    with pytest.raises(TooLarge, match="bytes"):
        add_model(store, folder, threads=1)
    assert store.list() == []
    assert not (tmp_path / "blobs").exists()


def test_a_model_of_the_size_of_flux_is_within_the_limits() -> None:
    limits = StoreLimits()
    parameters, largest = 17 * 10**9, 12 * 10**9
    assert limits.pipeline_bytes >= 4 * parameters  # in float32
    assert limits.weight_bytes >= 4 * largest  # in one file


def test_weights_that_change_while_they_are_added_are_not_stored(
    folder: Path, tmp_path: Path
) -> None:
    draft = import_pipeline(folder, StoreLimits(), name="changing")
    (weights,) = draft.weights
    signed = draft.digest(weights)
    files = DraftedFiles(draft.contents, draft.weights, {weights: signed})
    files.copy(weights, tmp_path / "copy")
    path = weights_of(folder)
    sound = path.read_bytes()
    assert (tmp_path / "copy").read_bytes() == sound
    try:
        path.write_bytes(sound[:-1] + b"!")
        with pytest.raises(IntegrityFailure, match="changed while"):
            files.copy(weights, tmp_path / "other")
    finally:
        path.write_bytes(sound)
    assert not (tmp_path / "other").exists()


def test_what_an_import_does_not_follow_is_listed(folder: Path, tmp_path: Path) -> None:
    path = folder.parent / "large-variance"
    tiny_pipelines.ddpm(path, scheduler=diffusers.DDPMScheduler(variance_type="fixed_large"))
    store = Store(tmp_path, catalogs=())
    assert any("fixed_large" in note for note in add_model(store, path, threads=1).notes)
    card = open_model(store, "large-variance", CPU, threads=1).card
    assert any("variance_type fixed_large is served as fixed_small" in n for n in card["notes"])
