"""Keep a network's weights once: its ONNX graph takes them from the safetensors file beside it.

`share_weights` replaces every initialiser that is a tensor of the safetensors file by a reference
to it, as ONNX's external data; where the graph wants a matrix the other way round, a `Transpose`
stands behind the reference, which runtimes compute once when they load. `export.network.export`
does so between the making of a graph and the parity gate, so every recipe does; ``python -m
model_store.export.share`` does it to models that were exported before. Both leave a file that any
runtime opens beside its weights; `model_store.shared_weights` is how the store opens it.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model_store.inspect_onnx import is_external
from model_store.inspect_safetensors import stored_tensors
from model_store.limits import StoreLimits
from model_store.shared_weights import LENGTH, LOCATION, OFFSET, ONNX_TYPES

SMALLEST_SHARED = 128
"""Initialisers of fewer bytes than this stay in the graph; a reference itself takes about 70."""


def share_weights(model: onnx.ModelProto, weights: bytes, location: str) -> int:
    """Refer to the safetensors file for every initialiser of the graph that it holds.

    Each tensor is referred to once; of two equal initialisers the second stays inside where the
    file holds one such tensor.

    Args:
        model: the graph, which is changed; what it shares already stays shared.
        weights: the content of the safetensors file.
        location: its plain name, which stands in the graph.

    Returns:
        How many bytes of initialisers lie in the safetensors file now that did not before.
    """
    stored = _Stored(weights, location)
    for tensor in model.graph.initializer:
        stored.forget(tensor)
    shared = 0
    turned = []
    for tensor in model.graph.initializer:
        if is_external(tensor):
            continue
        values = numpy_helper.to_array(tensor)
        if values.nbytes < SMALLEST_SHARED:
            continue
        if stored.refer(tensor, values):
            shared += values.nbytes
        elif values.ndim == 2:
            name = tensor.name
            other_way = numpy_helper.from_array(np.ascontiguousarray(values.T), f"{name}.stored")
            if stored.refer(other_way, values.T):
                tensor.CopyFrom(other_way)
                turned.append(_transposed(name))
                shared += values.nbytes
    nodes = [*turned, *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return shared


class _Stored:
    """The tensors of a safetensors file that are yet to be referred to, by type and content."""

    def __init__(self, data: bytes, location: str) -> None:
        self._location = location
        self._places: dict[tuple[int, bytes], list[tuple[int, int]]] = defaultdict(list)
        for tensor in stored_tensors(location, data, StoreLimits()).values():
            kind = ONNX_TYPES.get(tensor.dtype)
            if kind is not None:
                place = (tensor.begin, tensor.end - tensor.begin)
                self._places[kind, data[tensor.begin : tensor.end]].append(place)

    def forget(self, tensor: TensorProto) -> None:
        """Leave out the place that a tensor refers to already."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get(LOCATION) != self._location:
            return
        taken = (int(entries[OFFSET]), int(entries[LENGTH]))
        for places in self._places.values():
            if taken in places:
                places.remove(taken)

    def refer(self, tensor: TensorProto, values: NDArray[np.generic]) -> bool:
        """Replace a tensor's values by a reference to equal ones, if there are such."""
        places = self._places.get((tensor.data_type, values.tobytes()))
        if not places:
            return False
        offset, length = places.pop(0)
        reference = TensorProto(
            name=tensor.name,
            dims=tensor.dims,
            data_type=tensor.data_type,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in ((LOCATION, self._location), (OFFSET, offset), (LENGTH, length)):
            reference.external_data.add(key=key, value=str(value))
        tensor.CopyFrom(reference)
        return True


def _transposed(name: str) -> onnx.NodeProto:
    """What makes the matrix ``name`` of the one that is stored the other way round."""
    return helper.make_node("Transpose", [f"{name}.stored"], [name], perm=[1, 0])
