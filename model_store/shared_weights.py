"""A graph that takes its weights from its network's safetensors file, so that they are kept once.

In the ONNX file such a weight is external data, as every runtime reads it: the plain name of the
safetensors file, an offset and a length. `model_store.export.sharing` writes them. Of a stored
graph they are followed to no other file, and mean nothing but one whole tensor of that file: the
same type, the same number of bytes, at the place where the checked header says that it lies, and
each tensor once, so that no graph is larger than its files. The bytes come from the file as it was
verified; the runtime sees a graph with its weights inside and no path at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx
from onnx import TensorProto

from model_store.inspect_onnx import check_graph, is_external, parse_onnx
from model_store.inspect_safetensors import StoredTensor, stored_tensors
from model_store.limits import StoreLimits
from model_store.manifest import NetworkFiles
from model_store.reading import Read
from services.core.errors import InvalidNetwork, UnsafeModel

ONNX_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": TensorProto.BOOL,
        "U8": TensorProto.UINT8,
        "I8": TensorProto.INT8,
        "U16": TensorProto.UINT16,
        "I16": TensorProto.INT16,
        "U32": TensorProto.UINT32,
        "I32": TensorProto.INT32,
        "U64": TensorProto.UINT64,
        "I64": TensorProto.INT64,
        "F16": TensorProto.FLOAT16,
        "BF16": TensorProto.BFLOAT16,
        "F32": TensorProto.FLOAT,
        "F64": TensorProto.DOUBLE,
    }
)
"""By the name of a type in safetensors: the type of the same bytes in ONNX."""
LOCATION, OFFSET, LENGTH = "location", "offset", "length"
_MAX_RANK = 16
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class CheckedGraph:
    """A graph that has passed every check, with its weights inside.

    Attributes:
        model: the graph.
        file: its file, where that holds all of it.
    """

    model: onnx.ModelProto
    file: bytes | None

    def data(self) -> bytes:
        """What a runtime is given."""
        if self.file is not None:
            return self.file
        whole: bytes = self.model.SerializeToString(deterministic=True)
        return whole


def checked_graph(network: NetworkFiles, read: Read, limits: StoreLimits) -> CheckedGraph:
    """A network's ONNX export, checked, with the weights that it shares filled in.

    Args:
        network: the files of the network.
        read: gives verified bytes by file name.
        limits: on both files.

    Raises:
        UnsafeModel: a file is a pickle or an archive, an operator could reach outside the graph, or
            a weight lies elsewhere than as a whole tensor of the network's own safetensors file.
        InvalidNetwork: there is no ONNX export, it is no ONNX file, or over a limit.
        IntegrityFailure: a file is missing, or is not the one that was stored.
    """
    if network.onnx is None:
        raise InvalidNetwork("the network has no ONNX export")
    name = network.onnx.file
    data = read(name)
    model = parse_onnx(name, data)
    outside = [tensor for tensor in model.graph.initializer if is_external(tensor)]
    if outside:
        if network.safetensors is None:
            raise _refusal(name, outside[0], "the network has no safetensors file to take it from")
        weights = network.safetensors.file
        _fill(name, outside, _Weights(weights, read(weights), limits))
    check_graph(name, model, limits)
    return CheckedGraph(model, None if outside else data)


class _Weights:
    """The tensors of a safetensors file, each of which may be taken once."""

    def __init__(self, name: str, data: bytes, limits: StoreLimits) -> None:
        self.name = name
        self._data = data
        self._left: dict[tuple[int, int], StoredTensor] = {
            (tensor.begin, tensor.end - tensor.begin): tensor
            for tensor in stored_tensors(name, data, limits).values()
        }

    def take(self, offset: int, length: int) -> tuple[StoredTensor, bytes] | None:
        """The tensor that lies just there and its bytes, unless it was taken before."""
        tensor = self._left.pop((offset, length), None)
        return None if tensor is None else (tensor, self._data[tensor.begin : tensor.end])


def _fill(graph: str, outside: list[TensorProto], weights: _Weights) -> None:
    for tensor in outside:
        keys = sorted(entry.key for entry in tensor.external_data)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if keys != sorted((LOCATION, OFFSET, LENGTH)):
            raise _refusal(graph, tensor, "a location, an offset and a length are wanted")
        if entries[LOCATION] != weights.name:
            raise _refusal(
                graph,
                tensor,
                f"it lies in '{entries[LOCATION][:64]}', and only '{weights.name}', the network's "
                "own safetensors file, is followed",
            )
        offset, length = _natural(entries[OFFSET]), _natural(entries[LENGTH])
        taken = None if offset is None or length is None else weights.take(offset, length)
        if taken is None:
            raise _refusal(
                graph,
                tensor,
                f"{entries[LENGTH][:24]} bytes at {entries[OFFSET][:24]} are no whole tensor of "
                f"'{weights.name}', or one that was taken before",
            )
        stored, data = taken
        if not _is_of(tensor, stored):
            raise _refusal(
                graph,
                tensor,
                f"it is of another type or size than the {stored.dtype} of {list(stored.shape)} "
                "that lies there",
            )
        inside = TensorProto(
            name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=data
        )
        tensor.CopyFrom(inside)  # nothing else that the tensor said is kept


def _natural(text: str) -> int | None:
    """A number from 0 on in plain digits; none where it is anything else."""
    plain = text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
    return int(text) if plain else None


def _is_of(tensor: TensorProto, stored: StoredTensor) -> bool:
    if ONNX_TYPES.get(stored.dtype) != tensor.data_type or len(tensor.dims) > _MAX_RANK:
        return False
    natural = all(dim >= 0 for dim in tensor.dims)
    return natural and math.prod(tensor.dims) == math.prod(stored.shape)


def _refusal(graph: str, tensor: TensorProto, why: str) -> UnsafeModel:
    return UnsafeModel(
        f"'{graph}' keeps tensor '{tensor.name[:64]}' in another file: {why}; `atelier models add` "
        "on the folder folds files beside a graph in"
    )
