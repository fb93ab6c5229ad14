"""Graphs that lie, reach out or never end are refused by the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_store.addition import add_model
from model_store.limits import StoreLimits
from model_store.store import Store
from services.core.errors import (
    InvalidNetwork,
    UnsafeModel,
)
from tests.stores import refused
from tests.unit.tiny_networks import Generator, one_node_model, write_model


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
