"""A safetensors header is not believed before it is checked."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import safetensors.torch
import torch

from model_store.inspect_safetensors import check_safetensors
from model_store.limits import StoreLimits
from services.core.errors import InvalidNetwork, UnsafeModel


def file_of(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(begin: int, end: int, *, shape: Any = None, dtype: str = "U8") -> dict[str, Any]:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_sound_file_gives_its_shapes() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.zeros(4).half(), "c": torch.zeros(())}
    data = safetensors.torch.save(weights, {"format": "pt"})
    assert check_safetensors("w", data, StoreLimits()) == {"a": (2, 3), "b": (4,), "c": ()}


def test_a_header_length_that_looks_like_a_pickle_is_no_pickle() -> None:
    header = json.dumps({"a": tensor(0, 4)}).encode().ljust(0x0280)
    assert file_of(header)[:2] == b"\x80\x02"
    assert check_safetensors("w", file_of(header, bytes(4)), StoreLimits()) == {"a": (4,)}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "shorter"),
        (struct.pack("<Q", 1 << 60) + b"{}", "header of"),
        (struct.pack("<Q", 100) + b"{}", "header of"),
        (file_of(b"[]"), "mapping"),
        (file_of(b"{" * 100_000), "sound"),
        (file_of(b"\xff\xfe{}"), "sound"),
        (file_of(b'{"a": 1, "a": 2}'), "twice"),
        (file_of({"a": 1}), "lacks"),
        (file_of({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)), "overlaps"),
        (file_of({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4)), "overlaps"),
        (file_of({"a": tensor(0, 4), "b": tensor(6, 8)}, bytes(8)), "belong to nothing"),
        (file_of({"a": tensor(0, 4)}, bytes(9)), "belong to nothing"),
        (file_of({"a": tensor(0, 100)}, bytes(4)), "outside"),
        (file_of({"a": tensor(4, 0, shape=[0])}, bytes(4)), "outside"),
        (file_of({"a": tensor(0, 4, shape=[-4])}, bytes(4)), "impossible shape"),
        (file_of({"a": tensor(0, 4, shape=[True])}, bytes(4)), "impossible shape"),
        (file_of({"a": tensor(0, 4, shape=[1 << 62, 1 << 62])}, bytes(4)), "bytes"),
        (file_of({"a": tensor(0, 4, shape=[1] * 100)}, bytes(4)), "impossible shape"),
        (file_of({"a": tensor(0, 4, dtype="PICKLE")}, bytes(4)), "unknown type"),
        (file_of({"a": {**tensor(0, 4), "data_offsets": [0, 2, 4]}}, bytes(4)), "offsets"),
    ],
)
def test_an_unsound_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidNetwork, match=reason):
        check_safetensors("weights.safetensors", data, StoreLimits())


def test_counts_and_header_size_are_bounded() -> None:
    data = file_of({"a": tensor(0, 4), "b": tensor(4, 8)}, bytes(8))
    with pytest.raises(InvalidNetwork, match="at most 1 "):
        check_safetensors("w", data, StoreLimits(tensors=1))
    with pytest.raises(InvalidNetwork, match="at most 16 "):
        check_safetensors("w", data, StoreLimits(header_bytes=16))


def test_a_pickle_dressed_as_a_header_is_named() -> None:
    disguised = b"\x80\x04\x95\x00\x00\x00\x00\x00{" + bytes(1 << 12)
    with pytest.raises(UnsafeModel, match="pickle"):
        check_safetensors("w", disguised, StoreLimits())
