"""A stored graph may take weights from its own safetensors file, and from nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper

from model_store.addition import add_model
from model_store.export.sharing import share_weights
from model_store.inspect_onnx import is_external, tensors_of
from model_store.inspect_safetensors import stored_tensors
from model_store.limits import StoreLimits
from model_store.manifest import parse_manifest
from model_store.networks.export_choice import open_export
from model_store.networks.hardware import Hardware
from model_store.networks.measurements import Measurements
from model_store.networks.opening import open_model
from model_store.plain_files import digest
from model_store.shared_weights import checked_graph
from model_store.store import Store
from services.core.errors import IntegrityFailure, ModelError, UnsafeModel
from tests.unit.tiny_networks import LATENT, Generator, manifest_of, one_node_model

CPU = torch.device("cpu")
GRAPH, WEIGHTS, OTHER = "generator.onnx", "generator.safetensors", "other.safetensors"
Edit = Callable[[TensorProto], None]


@dataclass
class Model:
    """A model whose graph takes its one matrix from the safetensors file, before it is written."""

    graph: onnx.ModelProto = field(default_factory=lambda: Generator().build())
    weights: bytes = field(
        default_factory=lambda: safetensors.torch.save(
            {"bias": torch.ones(48), "matrix": torch.from_numpy(Generator().weight)}
        )
    )
    network: dict[str, Any] = field(
        default_factory=lambda: {"safetensors": {"file": WEIGHTS, "architecture": "tiny"}}
    )

    def __post_init__(self) -> None:
        assert share_weights(self.graph, self.weights, WEIGHTS)

    @property
    def matrix(self) -> TensorProto:
        """The weight that lies outside."""
        return next(t for t in self.graph.graph.initializer if is_external(t))

    def written(self, catalog: Path) -> Store:
        """A store that has it in a catalog, every digest being right."""
        folder = catalog / "my-gan"
        folder.mkdir(parents=True)
        (folder / GRAPH).write_bytes(self.graph.SerializeToString())
        for name in (WEIGHTS, OTHER):
            (folder / name).write_bytes(self.weights)
        network = {"onnx": {"file": GRAPH}, **self.network}
        for file in network.values():
            file["sha256"] = hashlib.sha256((folder / file["file"]).read_bytes()).hexdigest()
        other = {"file": OTHER, "sha256": digest(self.weights)}
        manifest = manifest_of(Generator(), networks={"generator": network}, files={"more": other})
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return Store(catalog.parent / "store", catalogs=(catalog,))


def opened(store: Store, measured: Measurements | None = None) -> Any:
    known = measured or Measurements(None, CPU, 1)
    model = open_model(store, "my-gan", CPU, threads=1, prefer="onnx", measurements=known)
    return model.networks["generator"]


def entry(key: str, value: str) -> Edit:
    """Give one of the external entries another value."""

    def edit(tensor: TensorProto) -> None:
        next(e for e in tensor.external_data if e.key == key).value = value

    return edit


def dims(*values: int) -> Edit:
    return lambda tensor: tensor.CopyFrom(_with(tensor, dims=values))


def kind(value: int) -> Edit:
    return lambda tensor: tensor.CopyFrom(_with(tensor, data_type=value))


def _with(tensor: TensorProto, **changed: Any) -> TensorProto:
    fields = {"dims": tensor.dims, "data_type": tensor.data_type, **changed}
    return TensorProto(
        name=tensor.name,
        data_location=TensorProto.EXTERNAL,
        external_data=tensor.external_data,
        **fields,
    )


def without(key: str) -> Edit:
    def edit(tensor: TensorProto) -> None:
        left = [e for e in tensor.external_data if e.key != key]
        tensor.ClearField("external_data")
        tensor.external_data.extend(left)

    return edit


def also(key: str, value: str) -> Edit:
    return lambda tensor: tensor.external_data.add(key=key, value=value)


def test_a_graph_with_shared_weights_computes_what_the_whole_one_does(tmp_path: Path) -> None:
    network = opened(Model().written(tmp_path / "catalog"))
    z = torch.randn(3, LATENT)
    expected = torch.from_numpy(Generator().expected(z.numpy())).float()
    torch.testing.assert_close(network(z=z)["image"], expected)


def test_the_runtime_is_given_a_graph_that_refers_to_no_file(tmp_path: Path) -> None:
    store = Model().written(tmp_path / "catalog")
    files = store.get("my-gan").networks["generator"]
    graph = checked_graph(files, lambda name: store.read("my-gan", name), StoreLimits())
    given = onnx.load_model_from_string(graph.data())
    assert not any(is_external(tensor) for tensor in tensors_of(given))
    assert given.ByteSize() > Generator().weight.nbytes


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(entry("location", f"../my-gan/{WEIGHTS}"), id="up and down"),
        pytest.param(entry("location", f"./{WEIGHTS}"), id="here"),
        pytest.param(entry("location", "/etc/passwd"), id="absolute"),
        pytest.param(entry("location", OTHER), id="another file of the model"),
        pytest.param(entry("location", GRAPH), id="the graph itself"),
        pytest.param(entry("location", f"{WEIGHTS}\0"), id="NUL"),
        pytest.param(entry("location", ""), id="nowhere"),
        pytest.param(entry("offset", "0"), id="the header's length"),
        pytest.param(entry("offset", "8"), id="the header"),
        pytest.param(entry("offset", "-768"), id="negative offset"),
        pytest.param(entry("offset", "1"), id="between tensors"),
        pytest.param(entry("offset", "99999999"), id="outside"),
        pytest.param(entry("offset", "9" * 5000), id="huge offset"),
        pytest.param(entry("offset", "0x10"), id="no number"),
        pytest.param(entry("offset", "१"), id="a digit of another script"),
        pytest.param(entry("length", "767"), id="too short"),
        pytest.param(entry("length", "769"), id="too long"),
        pytest.param(entry("length", "-1"), id="negative length"),
        pytest.param(entry("length", "0"), id="nothing"),
        pytest.param(entry("length", "9" * 5000), id="huge length"),
        pytest.param(without("offset"), id="no offset"),
        pytest.param(without("length"), id="no length"),
        pytest.param(without("location"), id="no location"),
        pytest.param(also("location", WEIGHTS), id="two locations"),
        pytest.param(also("checksum", "0"), id="an entry of another kind"),
        pytest.param(dims(8, 23), id="fewer numbers"),
        pytest.param(dims(1 << 62, 1 << 62), id="more than there are"),
        pytest.param(dims(-8, -24), id="negative sides"),
        pytest.param(dims(*[1] * 1000, 192), id="a thousand sides"),
        pytest.param(kind(TensorProto.INT32), id="another type"),
        pytest.param(kind(TensorProto.STRING), id="text"),
    ],
)
def test_anything_but_a_whole_tensor_of_the_own_file_is_refused(tmp_path: Path, edit: Edit) -> None:
    model = Model()
    edit(model.matrix)
    with pytest.raises(UnsafeModel, match=r"generator\.onnx' keeps tensor 'weight' in another"):
        opened(model.written(tmp_path / "catalog"))


def test_a_tensor_is_taken_once_so_that_few_bytes_do_not_become_many(tmp_path: Path) -> None:
    model = Model()
    again = TensorProto()
    again.CopyFrom(model.matrix)
    again.name = "again"
    model.graph.graph.initializer.append(again)
    with pytest.raises(UnsafeModel, match=r"'again'.*taken before"):
        opened(model.written(tmp_path / "catalog"))


def test_without_a_safetensors_file_nothing_is_followed(tmp_path: Path) -> None:
    with pytest.raises(UnsafeModel, match="no safetensors file"):
        opened(Model(network={}).written(tmp_path / "catalog"))


def test_only_initialisers_of_the_graph_itself_are_shared(tmp_path: Path) -> None:
    model = Model()
    outside = TensorProto()
    outside.CopyFrom(model.matrix)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["y"])], "branch", [], [output], [outside]
    )
    inner.initializer[0].name = "inner"
    branches = helper.make_node("If", ["z"], ["image"], then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["image"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside)
    for place, node in (("branch", branches), ("attribute", constant)):
        nested = Model()
        nested.graph = one_node_model(node, ["n", 1, 4, 6])
        with pytest.raises(UnsafeModel, match="in another file"):
            opened(nested.written(tmp_path / place / "catalog"))


def test_a_graph_that_calls_itself_its_weights_is_refused(tmp_path: Path) -> None:
    model = Model(network={"safetensors": {"file": GRAPH, "architecture": "tiny"}})
    entry("location", GRAPH)(model.matrix)
    with pytest.raises(ModelError, match=GRAPH):
        opened(model.written(tmp_path / "catalog"))


def test_a_changed_weights_file_is_not_looked_into(tmp_path: Path) -> None:
    store = Model().written(tmp_path / "catalog")
    path = tmp_path / "catalog" / "my-gan" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityFailure, match=WEIGHTS):
        opened(store)
    assert [problem.file for problem in store.verify("my-gan")] == [WEIGHTS]


def test_a_weights_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    store = Model().written(tmp_path / "catalog")
    path = tmp_path / "catalog" / "my-gan" / WEIGHTS
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeModel, match="link"):
        opened(store)


def test_a_strangers_shared_weights_are_folded_in(store: Store, tmp_path: Path) -> None:
    model = Model()
    model.written(tmp_path / "catalog")
    folder = tmp_path / "catalog" / "my-gan"
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["networks"]["generator"]["safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    addition = add_model(store, folder)
    assert any("folded" in note for note in addition.notes)
    stored = onnx.load_model_from_string(store.read("my-gan", GRAPH))
    assert not any(is_external(tensor) for tensor in tensors_of(stored))
    assert not store.verify("my-gan")
    assert opened(store)(z=torch.zeros(2, LATENT))["image"].shape == (2, 1, 4, 6)


def test_what_was_measured_of_a_graph_is_forgotten_with_other_weights(tmp_path: Path) -> None:
    measured = Measurements(tmp_path / "measurements.json", CPU, 1)
    model = Model()
    opened(model.written(tmp_path / "catalog"), measured)
    entries = json.loads((tmp_path / "measurements.json").read_text())["entries"].values()
    graph = digest(model.graph.SerializeToString())
    assert [e["where"]["files"] for e in entries] == [[graph, digest(model.weights)]]


def test_the_bytes_of_the_weights_are_let_go_once_the_network_is_open(tmp_path: Path) -> None:
    gone: list[int] = []

    class Read(bytes):
        def __del__(self) -> None:
            gone.append(len(self))

    model = Model()
    store = model.written(tmp_path / "catalog")
    manifest = parse_manifest(
        (tmp_path / "catalog" / "my-gan" / "manifest.json").read_text(), source="manifest"
    )
    hardware = Hardware(CPU, 1, Measurements(None, CPU, 1), StoreLimits())
    network = open_export(
        manifest, "generator", lambda name: Read(store.read("my-gan", name)), hardware, "onnx"
    )
    assert gone.count(len(model.weights)) == 1
    assert network(z=torch.zeros(1, LATENT))


def test_places_in_a_safetensors_file_are_counted_from_its_start() -> None:
    values = torch.arange(5, dtype=torch.int64)
    data = safetensors.torch.save({"a": values})
    (tensor,) = stored_tensors("w", data, StoreLimits()).values()
    assert (tensor.dtype, tensor.shape) == ("I64", (5,))
    assert data[tensor.begin : tensor.end] == values.numpy().tobytes()
