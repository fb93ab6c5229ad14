"""What the store never loads, and refuses with the reason."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from model_store.addition import add_model
from model_store.limits import StoreLimits
from model_store.store import Store
from services.core.errors import (
    IntegrityFailure,
    InvalidManifest,
    TooLarge,
    UnsafeModel,
)
from tests.stores import Canary, refused
from tests.unit.tiny_networks import write_model


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_called_onnx_never_runs(store: Store, tmp_path: Path, protocol: int) -> None:
    folder, canary = write_model(tmp_path / "gan"), tmp_path / "canary"
    (folder / "generator.onnx").write_bytes(pickle.dumps(Canary(canary), protocol))
    refused(store, folder, UnsafeModel, "generator.onnx.*pickle")
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_checkpoint_called_safetensors_never_runs(
    store: Store, tmp_path: Path, zipped: bool
) -> None:
    entry = {"file": "model.safetensors", "architecture": "conditional_generator"}
    networks = {"generator": {"safetensors": entry}}
    folder, canary = write_model(tmp_path / "gan", networks=networks), tmp_path / "canary"
    torch.save(
        {"w": Canary(canary)},
        folder / "model.safetensors",
        _use_new_zipfile_serialization=zipped,
    )
    refused(store, folder, UnsafeModel, "model.safetensors")
    assert not canary.exists()


def test_a_pickle_that_nothing_names_is_refused_too(store: Store, tmp_path: Path) -> None:
    folder, canary = write_model(tmp_path / "gan"), tmp_path / "canary"
    (folder / "deep").mkdir()
    (folder / "deep" / "optimizer.bin").write_bytes(pickle.dumps(Canary(canary)))
    refused(store, folder, UnsafeModel, "deep/optimizer.bin")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "generator.onnx"])
def test_an_archive_of_code_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "gan")
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("code/__torch__.py", "import os")
    refused(store, folder, UnsafeModel, name)


def test_python_in_the_folder_is_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    (folder / "pipeline.py").write_text("print('hello')")
    refused(store, folder, UnsafeModel, "pipeline.py")


def test_links_are_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    (folder / "generator.onnx").rename(tmp_path / "outside.onnx")
    (folder / "generator.onnx").symlink_to(tmp_path / "outside.onnx")
    refused(store, folder, UnsafeModel, "generator.onnx.*link")
    link = tmp_path / "link.onnx"
    link.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(UnsafeModel, match="link"):
        add_model(store, link, family="gan")


def test_a_link_in_a_catalog_is_not_followed(tmp_path: Path) -> None:
    sha = hashlib.sha256(b"secret").hexdigest()
    entry = {"generator": {"onnx": {"file": "generator.onnx", "sha256": sha}}}
    folder = write_model(tmp_path / "catalog" / "my-gan", networks=entry)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "generator.onnx").unlink()
    (folder / "generator.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeModel):
        Store(tmp_path / "store", catalogs=[tmp_path / "catalog"]).read("my-gan", "generator.onnx")


@pytest.mark.parametrize("file", ["../outside.onnx", "/etc/passwd", "a/b.onnx", "..", ".hidden"])
def test_a_path_in_a_manifest_is_refused(store: Store, tmp_path: Path, file: str) -> None:
    folder = write_model(tmp_path / "gan", networks={"generator": {"onnx": {"file": file}}})
    refused(store, folder, InvalidManifest, "file")


def test_an_absent_file_and_an_absent_manifest_are_said(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    (folder / "generator.onnx").unlink()
    refused(store, folder, IntegrityFailure, "generator.onnx.*missing")
    (folder / "manifest.yaml").unlink()
    refused(store, folder, InvalidManifest, "manifest")
    refused(store, tmp_path / "nowhere", InvalidManifest, "does not exist")


def test_yaml_aliases_and_duplicate_fields_are_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    (folder / "manifest.yaml").write_text("a: &a [1]\nb: [*a, *a]\n")
    refused(store, folder, InvalidManifest, "aliases")
    (folder / "manifest.json").write_text('{"id": "a", "id": "b"}')
    refused(store, folder, InvalidManifest, "twice")


def test_sizes_are_bounded(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    small = Store(tmp_path / "store", catalogs=(), limits=StoreLimits(file_bytes=100))
    with pytest.raises(TooLarge):
        add_model(small, folder)
    few = Store(tmp_path / "store", catalogs=(), limits=StoreLimits(folder_entries=1))
    with pytest.raises(TooLarge):
        add_model(few, folder)
