"""Small ONNX graphs as different frameworks would export them, made without any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LATENT = 8
CLASSES = 5


@dataclass(frozen=True)
class Generator:
    """``tanh(z W + E[label])`` as an image; every quirk is a field."""

    channels: int = 1
    height: int = 4
    width: int = 6
    layout: Literal["nchw", "nhwc", "flat"] = "nchw"
    batch: int | str = "n"
    label: Literal["none", "int64", "int32", "column", "one_hot"] = "none"
    dtype: Any = np.float32
    z_name: str = "z"
    label_name: str = "label"
    output: str = "image"
    z_tail: tuple[int, ...] = ()
    activation: str = "Tanh"
    extra_output: bool = False

    @property
    def weight(self) -> NDArray[Any]:
        """``[LATENT, c h w]``, in the order of channels first."""
        size = self.channels * self.height * self.width
        return np.random.default_rng(1).standard_normal((LATENT, size)).astype(self.dtype)

    @property
    def table(self) -> NDArray[Any]:
        """``[CLASSES, c h w]``."""
        size = self.channels * self.height * self.width
        return np.random.default_rng(2).standard_normal((CLASSES, size)).astype(self.dtype)

    def expected(self, z: NDArray[Any], label: NDArray[Any] | None = None) -> NDArray[Any]:
        """What it makes, as ``[n, c, h, w]``."""
        logits = z.reshape(len(z), -1) @ self.weight.astype(np.float64)
        if label is not None:
            logits = logits + self.table[label]
        shape = (len(z), self.channels, self.height, self.width)
        return np.asarray(np.tanh(logits).reshape(shape))

    def build(self) -> onnx.ModelProto:
        """The graph."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        shape = [self.batch, LATENT, *self.z_tail]
        inputs = [helper.make_tensor_value_info(self.z_name, kind, shape)]
        weights = [numpy_helper.from_array(self.weight, "weight")]
        nodes = [helper.make_node("Flatten", [self.z_name], ["flat_z"])]
        nodes.append(helper.make_node("MatMul", ["flat_z", "weight"], ["logits"]))
        logits = "logits"
        if self.label != "none":
            inputs.append(self._label_input(kind))
            weights.append(numpy_helper.from_array(self.table, "table"))
            nodes += self._label_nodes()
            logits = "conditioned"
        nodes.append(helper.make_node(self.activation, [logits], ["pixels"]))
        nodes += self._layout_nodes(weights)
        outputs = [helper.make_tensor_value_info(self.output, kind, None)]
        if self.extra_output:
            outputs.insert(0, helper.make_tensor_value_info("logits", kind, None))
        graph = helper.make_graph(nodes, "generator", inputs, outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def bytes(self) -> bytes:
        """The file."""
        return bytes(self.build().SerializeToString())

    def _label_input(self, kind: int) -> onnx.ValueInfoProto:
        kinds = {
            "int64": TensorProto.INT64,
            "int32": TensorProto.INT32,
            "column": TensorProto.INT64,
        }
        tails: dict[str, list[int]] = {"column": [1], "one_hot": [CLASSES]}
        return helper.make_tensor_value_info(
            self.label_name, kinds.get(self.label, kind), [self.batch, *tails.get(self.label, [])]
        )

    def _label_nodes(self) -> list[onnx.NodeProto]:
        if self.label == "one_hot":
            chosen = [helper.make_node("MatMul", [self.label_name, "table"], ["chosen"])]
        else:
            chosen = [
                helper.make_node("Gather", ["table", self.label_name], ["gathered"]),
                helper.make_node("Flatten", ["gathered"], ["chosen"]),
            ]
        return [*chosen, helper.make_node("Add", ["logits", "chosen"], ["conditioned"])]

    def _layout_nodes(self, weights: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
        if self.layout == "flat":
            return [helper.make_node("Identity", ["pixels"], [self.output])]
        shape = np.array([-1, self.channels, self.height, self.width])
        weights.append(numpy_helper.from_array(shape, "shape"))
        if self.layout == "nchw":
            return [helper.make_node("Reshape", ["pixels", "shape"], [self.output])]
        return [
            helper.make_node("Reshape", ["pixels", "shape"], ["first"]),
            helper.make_node("Transpose", ["first"], [self.output], perm=[0, 2, 3, 1]),
        ]


def one_node_model(node: onnx.NodeProto, shape: list[int | str]) -> onnx.ModelProto:
    """A graph of one node from ``z`` to ``image`` that claims rows of ``shape``."""
    inputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", LATENT])]
    outputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    graph = helper.make_graph([node], "one", inputs, outputs)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(node.domain or "ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def manifest_of(generator: Generator, **fields: Any) -> dict[str, Any]:
    """The dozen lines that a stranger writes."""
    return {
        "id": "my-gan",
        "family": "gan",
        "resolution": [generator.height, generator.width],
        "channels": generator.channels,
        "networks": {"generator": {"onnx": {"file": "generator.onnx"}}},
        **fields,
    }


def write_model(folder: Path, generator: Generator | None = None, **fields: Any) -> Path:
    """A folder with a manifest and a generator; ``fields`` replace those of the manifest."""
    generator = generator or Generator()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generator.onnx").write_bytes(generator.bytes())
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest_of(generator, **fields)))
    return folder
