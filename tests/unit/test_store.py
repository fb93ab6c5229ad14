"""The store finds, verifies, adds and removes models."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_store.addition import add_model
from model_store.manifest import json_schema
from model_store.store import Store, default_root
from services.core.errors import (
    IntegrityFailure,
    InvalidManifest,
    ModelError,
    ModelExists,
    ModelNotFound,
)
from tests.stores import blobs, nothing_stored
from tests.unit.tiny_networks import Generator, write_model

ROOT = Path(__file__).parents[2]


def test_a_dozen_lines_and_a_graph_make_a_model(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    added = add_model(store, folder)
    data = (folder / "generator.onnx").read_bytes()
    assert [m.id for m in store.list()] == ["my-gan"]
    assert store.read("my-gan", "generator.onnx") == data
    assert blobs(store)[0].name == hashlib.sha256(data).hexdigest()
    assert added.manifest.pixel_range == (-1.0, 1.0)
    assert any("pixel range" in note for note in added.notes)
    assert not store.verify("my-gan")


def test_sigmoid_output_is_noticed_unless_the_manifest_speaks(store: Store, tmp_path: Path) -> None:
    sigmoid = Generator(activation="Sigmoid")
    assert add_model(store, write_model(tmp_path / "a", sigmoid)).manifest.pixel_range == (0, 1)
    told = write_model(tmp_path / "b", sigmoid, pixel_range=[-1, 1])
    assert add_model(store, told, name="told").manifest.pixel_range == (-1, 1)


def test_a_model_added_elsewhere_is_seen_at_once(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "store", catalogs=())
    assert not other.list()
    add_model(store, write_model(tmp_path / "gan"), name="late")
    assert other.get("late").id == "late"
    store.remove("late")
    with pytest.raises(ModelNotFound):
        other.get("late")


def test_single_file_tells_resolution_and_channels(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "Face_Generator.onnx"
    path.write_bytes(Generator(channels=3, layout="nhwc").bytes())
    added = add_model(store, path)
    assert (added.manifest.id, added.manifest.family) == ("face-generator", "gan")
    assert (added.manifest.resolution, added.manifest.channels) == ((4, 6), 3)
    assert any("guessed the family" in note for note in added.notes)


def test_single_file_without_a_family_asks_for_one(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(Generator().bytes())
    with pytest.raises(InvalidManifest, match="--family"):
        add_model(store, path)
    assert add_model(store, path, family="gan", name="mine").manifest.id == "mine"


def test_unknown_names_come_with_near_ones(store: Store, tmp_path: Path) -> None:
    add_model(store, write_model(tmp_path / "gan"), name="faces-gan")
    with pytest.raises(ModelNotFound, match="faces-gan"):
        store.get("face-gan")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/passwd", "..", ".", "A", "a\n", "a\0", "", "x" * 65, "a.", "é"]
)
def test_a_name_outside_the_grammar_never_reaches_the_file_system(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: Any, **__: Any) -> None:
        raise RuntimeError("the file system was touched with a bad name")

    monkeypatch.setattr(type(store.user), "manifest", touched)
    monkeypatch.setattr(type(store.user), "read", touched)
    for call in (store.get, store.verify, store.remove, lambda n: store.read(n, "generator.onnx")):
        with pytest.raises(ModelNotFound):
            call(name)


def test_a_taken_name_is_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    add_model(store, folder)
    with pytest.raises(ModelExists):
        add_model(store, folder)


def test_catalog_models_stay_and_keep_their_names(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog"
    folder = write_model(catalog / "my-gan")
    raw = json.dumps(
        {
            "id": "my-gan",
            "family": "gan",
            "resolution": [4, 6],
            "channels": 1,
            "networks": {
                "generator": {
                    "onnx": {
                        "file": "generator.onnx",
                        "sha256": hashlib.sha256(
                            (folder / "generator.onnx").read_bytes()
                        ).hexdigest(),
                    }
                }
            },
        }
    )
    (folder / "manifest.json").write_text(raw)
    store = Store(tmp_path / "store", catalogs=[catalog])
    assert store.entry("my-gan").origin == "catalog"
    assert not store.verify("my-gan")
    with pytest.raises(ModelError, match="built-in"):
        store.remove("my-gan")
    with pytest.raises(ModelExists, match="built-in"):
        add_model(store, write_model(tmp_path / "mine"))


def test_remove_collects_files_that_no_other_model_uses(store: Store, tmp_path: Path) -> None:
    shared, alone = write_model(tmp_path / "a"), write_model(tmp_path / "b", Generator(width=4))
    add_model(store, shared, name="first")
    add_model(store, shared, name="second")
    add_model(store, alone, name="third")
    assert len(blobs(store)) == 2
    store.remove("first")
    assert len(blobs(store)) == 2
    store.remove("third")
    assert len(blobs(store)) == 1
    assert not store.verify("second")


def test_default_root_follows_the_environment(tmp_path: Path) -> None:
    assert default_root({"ATELIER_STORE": str(tmp_path)}) == tmp_path
    assert default_root({"XDG_DATA_HOME": "/data"}) == Path("/data/atelier/models")
    assert default_root({}) == Path.home() / ".local/share/atelier/models"


def test_the_published_schema_is_current() -> None:
    published = json.loads((ROOT / "model_store" / "manifest.schema.json").read_text())
    assert published == json.loads(json.dumps(json_schema()))


def test_a_flipped_byte_is_found_and_the_file_not_given(store: Store, tmp_path: Path) -> None:
    add_model(store, write_model(tmp_path / "gan"))
    blob = blobs(store)[0]
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    assert [p.file for p in store.verify("my-gan")] == ["generator.onnx"]
    with pytest.raises(IntegrityFailure):
        store.read("my-gan", "generator.onnx")
    blob.unlink()
    with pytest.raises(IntegrityFailure, match="missing"):
        store.read("my-gan", "generator.onnx")
    add_model(store, write_model(tmp_path / "gan"), name="again")
    assert not store.verify("my-gan")


def test_a_digest_in_the_manifest_is_checked(store: Store, tmp_path: Path) -> None:
    entry = {"file": "generator.onnx", "sha256": "0" * 64}
    folder = write_model(tmp_path / "gan", networks={"generator": {"onnx": entry}})
    with pytest.raises(IntegrityFailure):
        add_model(store, folder)
    assert nothing_stored(store)


def test_two_processes_adding_at_once_leave_a_whole_store(tmp_path: Path) -> None:
    write_model(tmp_path / "gan")
    script = (
        "import sys; from pathlib import Path; from model_store.store import Store;"
        "from model_store.draft import read_folder; from model_store.plain_files import digest;"
        "store = Store(Path(sys.argv[1]), catalogs=());"
        "draft = read_folder(Path(sys.argv[2]), store.limits, name=None, family=None);"
        "sha = digest(draft.contents['generator.onnx']);"
        "entry = {'generator': {'onnx': {'file': 'generator.onnx', 'sha256': sha}}};\n"
        "for i in range(30):\n"
        "    draft.change(id=f'{sys.argv[3]}-{i}', networks=entry)\n"
        "    store.put(draft.manifest, draft.contents)\n"
        "    if i % 3 == 0: store.remove(draft.manifest.id)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store"), str(tmp_path / "gan")]
    running = [subprocess.Popen([*command, name], cwd=ROOT) for name in ("left", "right")]
    assert [process.wait(60) for process in running] == [0, 0]
    store = Store(tmp_path / "store", catalogs=())
    assert len(store.list()) == 40
    assert not [problem for m in store.list() for problem in store.verify(m.id)]
    assert len(blobs(store)) == 1
