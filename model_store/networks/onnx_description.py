"""The inputs and outputs of an ONNX graph, read without a runtime."""

from __future__ import annotations

import math

import onnx
import torch

from model_store.networks.graph import Dims, GraphTensor
from services.core.errors import InvalidNetwork

_DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


def graph_inputs(model: onnx.ModelProto, network: str) -> list[GraphTensor]:
    """What must be fed; initialisers that old files list as inputs are left out.

    Raises:
        InvalidNetwork: an input is no tensor of a type that is taken.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return [_described(v, network) for v in model.graph.input if v.name not in weights]


def declared_rows(model: onnx.ModelProto) -> dict[str, Dims]:
    """The shapes that the outputs claim, without the batch."""
    return {value.name: _dims(value)[1:] for value in model.graph.output}


def largest_output(model: onnx.ModelProto) -> tuple[str, int]:
    """The output that claims most numbers in a row, and how many."""
    rows = declared_rows(model)
    sizes = {name: math.prod(d or 1 for d in row) for name, row in rows.items()}
    name = max(sizes, key=lambda key: sizes[key])
    return name, sizes[name]


def _described(value: onnx.ValueInfoProto, network: str) -> GraphTensor:
    kind = value.type.tensor_type.elem_type
    if kind not in _DTYPES:
        raise InvalidNetwork(
            f"input '{value.name[:64]}' of network '{network}' is no tensor of float, double, "
            "float16, int64, int32, uint8 or bool"
        )
    return GraphTensor(value.name, _dims(value), _DTYPES[kind])


def _dims(value: onnx.ValueInfoProto) -> Dims:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims)
