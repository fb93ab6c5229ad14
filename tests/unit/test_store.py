"""The store finds, verifies, adds and removes models, and refuses what it must."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from model_store.addition import add_model
from model_store.limits import StoreLimits
from model_store.manifest import json_schema
from model_store.store import Store, default_root
from services.core.errors import (
    IntegrityFailure,
    InvalidManifest,
    InvalidNetwork,
    ModelError,
    ModelExists,
    ModelNotFound,
    TooLarge,
    UnsafeModel,
)
from tests.unit.tiny_networks import Generator, one_node_model, write_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", catalogs=())


def blobs(store: Store) -> list[Path]:
    return sorted((store.user.root / "blobs").iterdir())


def nothing_stored(store: Store) -> bool:
    return not store.list() and not (store.user.root / "blobs").exists()


class Canary:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


# --- adding and finding ---------------------------------------------------------------------


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


# --- integrity ------------------------------------------------------------------------------


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


# --- what is never loaded -------------------------------------------------------------------


def refused(store: Store, folder: Path, kind: type[ModelError], match: str) -> None:
    with pytest.raises(kind, match=match):
        add_model(store, folder)
    assert nothing_stored(store)


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


# --- graphs that lie, reach out or never end ------------------------------------------------


def write_graph(folder: Path, model: onnx.ModelProto) -> Path:
    write_model(folder)
    (folder / "generator.onnx").write_bytes(model.SerializeToString())
    return folder


def test_weights_beside_the_graph_are_folded_in(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    onnx.save_model(
        Generator().build(),
        folder / "generator.onnx",
        save_as_external_data=True,
        location="generator.onnx.data",
        size_threshold=0,
    )
    add_model(store, folder)
    stored = onnx.load_model_from_string(store.read("my-gan", "generator.onnx"))
    weight = next(t for t in stored.graph.initializer if t.name == "weight")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), Generator().weight)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/data", ""])
def test_weights_outside_the_folder_are_refused(
    store: Store, tmp_path: Path, location: str
) -> None:
    model = Generator().build()
    tensor = next(t for t in model.graph.initializer if t.name == "weight")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    refused(store, write_graph(tmp_path / "gan", model), UnsafeModel, "plain file name")


def test_a_weight_file_that_is_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    model = Generator().build()
    tensor = next(t for t in model.graph.initializer if t.name == "weight")
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    folder = write_graph(tmp_path / "gan", model)
    (folder / "weights.bin").symlink_to(tmp_path / "secret")
    refused(store, folder, UnsafeModel, "weights.bin")


@pytest.mark.parametrize(
    ("domain", "operator"), [("evil.ops", "Run"), ("com.microsoft", "EPContext")]
)
def test_foreign_operators_are_refused(
    store: Store, tmp_path: Path, domain: str, operator: str
) -> None:
    node = onnx.helper.make_node(operator, ["z"], ["image"], domain=domain)
    model = one_node_model(node, ["n", 1, 4, 6])
    refused(store, write_graph(tmp_path / "gan", model), UnsafeModel, operator)


def test_a_foreign_operator_in_a_subgraph_is_refused(store: Store, tmp_path: Path) -> None:
    inner = onnx.helper.make_node("Run", ["z"], ["y"], domain="evil.ops")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    branch = onnx.helper.make_graph([inner], "branch", [], [output])
    node = onnx.helper.make_node("If", ["z"], ["image"], then_branch=branch, else_branch=branch)
    model = one_node_model(node, ["n", 1, 4, 6])
    refused(store, write_graph(tmp_path / "gan", model), UnsafeModel, "evil.ops")


def test_a_graph_of_another_size_is_refused_with_what_would_be_right(
    store: Store, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "gan", Generator(), resolution=[32, 32])
    refused(store, folder, InvalidNetwork, r"\[1, 4, 6\].*\[32, 32\]")


def test_a_declared_bomb_is_refused_before_it_runs(store: Store, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["z"], ["image"])
    model = one_node_model(node, ["n", 3, 32000, 32000])
    refused(store, write_graph(tmp_path / "gan", model), InvalidNetwork, "3x32000x32000")


def bomb(side: int) -> onnx.ModelProto:
    """A graph whose few bytes make ``side`` squared numbers, and say nothing of it."""
    helper = onnx.helper
    shape = onnx.numpy_helper.from_array(np.array([1, 1, side, side]), "shape")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["z"], ["top"], keepdims=0),
            helper.make_node("Expand", ["top", "shape"], ["image"]),
        ],
        "bomb",
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, None)],
        [shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_hidden_bomb_bursts_elsewhere(tmp_path: Path) -> None:
    limits = StoreLimits(trial_bytes=512 << 20, trial_seconds=20)
    store = Store(tmp_path / "store", catalogs=(), limits=limits)
    folder = write_graph(tmp_path / "gan", bomb(32_000))
    refused(store, folder, InvalidNetwork, "manifest says 4 x 6")


def test_a_graph_that_never_ends_is_stopped(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    carried = helper.make_tensor_value_info("carried", kind.FLOAT, None)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["in"], ["carried"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", kind.INT64, []),
            helper.make_tensor_value_info("go", kind.BOOL, []),
            helper.make_tensor_value_info("in", kind.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", kind.BOOL, []), carried],
    )
    model = one_node_model(helper.make_node("Loop", ["", "", "z"], ["image"], body=body), ["n"])
    store = Store(tmp_path / "store", catalogs=(), limits=StoreLimits(trial_seconds=1.5))
    refused(store, write_graph(tmp_path / "gan", model), InvalidNetwork, "more than 1.5 s|broke")


def test_garbage_and_truncated_graphs_are_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    whole = (folder / "generator.onnx").read_bytes()
    for data in (b"", b"not a graph", whole[: len(whole) // 2], b"{}" * 50):
        (folder / "generator.onnx").write_bytes(data)
        refused(store, folder, InvalidNetwork, "generator.onnx|generator")


def test_node_and_tensor_counts_are_bounded(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gan")
    for limits in (StoreLimits(nodes=2), StoreLimits(tensors=1)):
        with pytest.raises(InvalidNetwork, match="more than"):
            add_model(Store(tmp_path / "store", catalogs=(), limits=limits), folder)
