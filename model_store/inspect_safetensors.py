"""A safetensors file, checked before the library sees it: header, counts, ranges, overlaps."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.file_content import refuse_unsafe
from model_store.limits import StoreLimits
from services.core.errors import InvalidNetwork, UnsafeModel

LENGTH_BYTES = 8
_LEAST_BYTES = 1 << 16
"""What is read of a file at least, to tell pickles and archives."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_MAX_RANK = 16

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its file.

    Attributes:
        dtype: its type, as safetensors names it.
        shape: its shape.
        begin: place of its first byte, counted from the start of the file.
        end: place after its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


StoredTensors = dict[str, StoredTensor]


def check_safetensors(name: str, data: bytes, limits: StoreLimits) -> Shapes:
    """The shapes of a file's tensors, once its header has proved sound.

    Raises:
        UnsafeModel: the file is a pickle or an archive.
        InvalidNetwork: it is no safetensors file, over a limit, or its tensors are duplicate,
            overlapping, out of range or of an unknown type.
    """
    return _shapes(stored_tensors(name, data, limits))


def stored_tensors(name: str, data: bytes, limits: StoreLimits) -> StoredTensors:
    """Where a file's tensors lie, once its header has proved sound; see `check_safetensors`."""
    return _checked(name, data, len(data), limits)


def check_safetensors_file(name: str, path: Path, limits: StoreLimits) -> Shapes:
    """As `check_safetensors`, of a file of which no more than the header is read.

    Args:
        name: what to call it in an error.
        path: the file, verified and private.
        limits: on headers and tensors.
    """
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = min(int.from_bytes(start, "little"), limits.header_bytes)
        start += file.read(max(length, _LEAST_BYTES))
    return _shapes(_checked(name, start, path.stat().st_size, limits))


def _shapes(tensors: StoredTensors) -> Shapes:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _checked(name: str, data: bytes, size: int, limits: StoreLimits) -> StoredTensors:
    """Check a file of ``size`` bytes by its start, which holds the header."""
    refuse_unsafe(name, data)
    try:
        return _tensors(data, size, limits)
    except (ValueError, RecursionError) as error:
        if data[:1] == b"\x80":
            raise UnsafeModel(f"'{name}' starts like a pickle: never loaded") from error
        raise InvalidNetwork(f"'{name}' is no sound safetensors file: {error}") from error


def _tensors(data: bytes, size: int, limits: StoreLimits) -> StoredTensors:
    header, body = _header(data, size, limits)
    entries = {key: value for key, value in header.items() if key != "__metadata__"}
    if len(entries) > limits.tensors:
        raise ValueError(f"{len(entries)} tensors; at most {limits.tensors} are taken")
    start = size - body
    tensors = {name: _tensor(name, entry, start, body) for name, entry in entries.items()}
    ranges = [(tensor.begin, tensor.end, name) for name, tensor in tensors.items()]
    _refuse_gaps(sorted(ranges), start, size)
    return tensors


def _header(data: bytes, size: int, limits: StoreLimits) -> tuple[dict[str, Any], int]:
    if size < LENGTH_BYTES + 2:
        raise ValueError("it is shorter than a header")
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > limits.header_bytes:
        raise ValueError(f"a header of {length:,} bytes; at most {limits.header_bytes:,} are read")
    if length > size - LENGTH_BYTES:
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length], object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")  # noqa: TRY004 - a wrong file, no wrong call
    return header, size - LENGTH_BYTES - length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("the header names a tensor twice")
    return table


def _tensor(name: str, entry: Any, start: int, body: int) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor '{name}' lacks dtype, shape or data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or len(shape) > _MAX_RANK:
        raise ValueError(f"tensor '{name}' has an impossible shape")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor '{name}' has impossible offsets")
    if entry["dtype"] not in _BITS:
        raise ValueError(f"tensor '{name}' has unknown type {str(entry['dtype'])[:32]!r}")
    begin, end = offsets
    if not begin <= end <= body:
        raise ValueError(f"tensor '{name}' lies outside the file")
    if (end - begin) * 8 != math.prod(shape) * _BITS[entry["dtype"]]:
        raise ValueError(f"tensor '{name}' has {end - begin} bytes, which its shape does not")
    return StoredTensor(entry["dtype"], tuple(shape), start + begin, start + end)


def _naturals(values: Any) -> bool:
    if not isinstance(values, list):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)


def _refuse_gaps(ranges: list[tuple[int, int, str]], start: int, size: int) -> None:
    reached = start
    for begin, end, name in ranges:
        if begin < reached:
            raise ValueError(f"tensor '{name}' overlaps another")
        if begin > reached:
            raise ValueError(f"{begin - reached} bytes before tensor '{name}' belong to nothing")
        reached = end
    if reached != size:
        raise ValueError(f"{size - reached} bytes at the end belong to nothing")
