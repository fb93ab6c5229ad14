"""Weights are kept once: graphs refer to the safetensors file, and compute the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper

from model_store.export import share
from model_store.export.network import ParityError, write_weights
from model_store.export.package import CATALOG, digest, write_manifest
from model_store.export.share import folders_of, share_model
from model_store.export.sharing import share_weights
from model_store.inspect_onnx import is_external
from model_store.manifest import Manifest, NetworkFiles, OnnxFile, SafetensorsFile, read_manifest
from model_store.store import CLASSIFIERS, Store
from tests.unit.tiny_networks import Generator, write_model

BUILT_IN = folders_of((CATALOG, CLASSIFIERS))
LARGEST_CATALOG = 20 << 20
"""Bytes: with it, the whole repository stays below 30 MiB."""
W = "w.safetensors"


def graph_of(**weights: np.ndarray) -> onnx.ModelProto:
    """A product of matrices, one after another."""
    nodes = [
        helper.make_node("MatMul", [f"x{i}", name], [f"x{i + 1}"]) for i, name in enumerate(weights)
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info(f"x{len(weights)}", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def matrix(seed: int, rows: int = 8, columns: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def outside(model: onnx.ModelProto) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer if is_external(tensor)]


def ran(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x0": matrix(9, 5)})[0])


def test_equal_and_transposed_weights_are_shared_and_compute_the_same(tmp_path: Path) -> None:
    a, b, c = matrix(1, 8, 24), matrix(2, 24, 16), matrix(3, 16, 8)
    weights = safetensors.torch.save(
        {"a": torch.from_numpy(a), "b": torch.from_numpy(b.T.copy()), "d": torch.ones(64)}
    )
    model = graph_of(a=a, b=b, c=c)
    (tmp_path / "whole.onnx").write_bytes(model.SerializeToString())
    assert share_weights(model, weights, W) == a.nbytes + b.nbytes
    assert outside(model) == ["a", "b.stored"]
    (tmp_path / W).write_bytes(weights)
    (tmp_path / "shared.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(tmp_path / "shared.onnx"), full_check=True)
    assert ran(tmp_path / "shared.onnx").tobytes() == ran(tmp_path / "whole.onnx").tobytes()
    before = model.SerializeToString()
    assert share_weights(model, weights, W) == 0
    assert model.SerializeToString() == before


def test_a_stored_tensor_is_referred_to_once() -> None:
    a = matrix(1)
    one, two = torch.from_numpy(a), torch.from_numpy(a.copy())
    single, double = graph_of(a=a, b=a), graph_of(a=a, b=a)
    assert share_weights(single, safetensors.torch.save({"a": one}), W) == a.nbytes
    assert outside(single) == ["a"]
    assert share_weights(single, safetensors.torch.save({"a": one}), W) == 0
    assert share_weights(double, safetensors.torch.save({"a": one, "b": two}), W) == 2 * a.nbytes
    offsets = {
        e.value for t in double.graph.initializer for e in t.external_data if e.key[0] == "o"
    }
    assert len(offsets) == 2


def test_equal_bytes_of_another_type_and_small_tensors_stay_inside() -> None:
    a, small = matrix(1), np.ones((8, 2), np.float32)
    weights = {"a": torch.from_numpy(a).view(torch.int32), "small": torch.from_numpy(small)}
    model = graph_of(a=a, small=small)
    assert share_weights(model, safetensors.torch.save(weights), W) == 0
    assert outside(model) == []


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A model as it was exported before weights were shared: a graph that holds its own."""
    folder = write_model(tmp_path / "catalog" / "my-gan")
    (folder / "manifest.yaml").unlink()
    weight = torch.from_numpy(Generator().weight)
    safetensors.torch.save_file({"linear.weight": weight.T.contiguous()}, folder / W)
    onnx_file = OnnxFile(file="generator.onnx", sha256=digest(folder / "generator.onnx"))
    weights = SafetensorsFile(file=W, sha256=digest(folder / W), architecture="tiny")
    networks = {"generator": NetworkFiles(onnx=onnx_file, safetensors=weights)}
    manifest = Manifest(id="my-gan", family="gan", resolution=(4, 6), channels=1, networks=networks)
    write_manifest(manifest, folder)
    return folder


def test_networks_that_share_a_file_must_have_the_same_weights(tmp_path: Path) -> None:
    one, other = (safetensors.torch.save({"w": torch.full((3,), v)}) for v in (0.0, 1.0))
    write_weights(tmp_path / W, one)
    write_weights(tmp_path / W, one)
    with pytest.raises(ParityError, match="with other weights"):
        write_weights(tmp_path / W, other)
    assert (tmp_path / W).read_bytes() == one


def test_a_model_exported_before_is_shared_whole_and_once(former: Path) -> None:
    store = Store(former.parents[1] / "store", catalogs=(former.parent,))
    before = read_manifest(former / "manifest.json")
    size = store.entry("my-gan").size
    saved = share_model(former)
    assert saved > 0.5 * Generator().weight.nbytes
    assert store.entry("my-gan").size == size - saved
    assert store.verify("my-gan") == []
    after = read_manifest(former / "manifest.json")
    assert after.networks["generator"].safetensors == before.networks["generator"].safetensors
    assert after.networks["generator"].onnx != before.networks["generator"].onnx
    assert sorted(p.name for p in former.parent.iterdir()) == ["my-gan"]
    stamp = former.stat().st_ino
    assert share_model(former) == 0
    assert former.stat().st_ino == stamp


def test_a_graph_that_would_compute_something_else_replaces_nothing(
    former: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(model: onnx.ModelProto, weights: bytes, location: str) -> int:
        shared = share_weights(model, weights, location)
        next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Sigmoid"
        return shared

    before = {path.name: path.read_bytes() for path in former.iterdir()}
    monkeypatch.setattr(share, "share_weights", spoilt)
    with pytest.raises(ParityError, match="left as it was"):
        share_model(former)
    assert {path.name: path.read_bytes() for path in former.iterdir()} == before
    assert sorted(p.name for p in former.parent.iterdir()) == ["my-gan"]


@pytest.mark.parametrize("folder", BUILT_IN, ids=[folder.name for folder in BUILT_IN])
def test_no_built_in_graph_holds_a_weight_that_lies_beside_it(folder: Path) -> None:
    for network in read_manifest(folder / "manifest.json").networks.values():
        if network.onnx is None or network.safetensors is None:
            continue
        model = onnx.load(folder / network.onnx.file, load_external_data=False)
        weights = (folder / network.safetensors.file).read_bytes()
        twice = share_weights(model, weights, network.safetensors.file)
        assert twice == 0, f"{network.onnx.file}: run python -m model_store.export.share"


def test_the_catalog_stays_small() -> None:
    size = sum(path.stat().st_size for path in CATALOG.rglob("*") if path.is_file())
    assert size < LARGEST_CATALOG
