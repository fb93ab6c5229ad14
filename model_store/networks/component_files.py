"""What the small files of a pipeline's component may say: plain values that lead nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from model_store.manifest import is_file_name
from services.core.errors import InvalidManifest, UnsafeModel

MAX_CONFIG_BYTES = 16 << 20
MAX_DEPTH = 32

_CODE_KEYS = frozenset(
    {
        "auto_map",
        "custom_pipeline",
        "custom_pipelines",
        "trust_remote_code",
        # These name kernels or back ends that a library fetches or imports by itself.
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "quantization_config",
    }
)


def read_config(name: str, data: bytes) -> dict[str, Any]:
    """A JSON file of plain values that asks for no code and points at no file.

    Args:
        name: what to call it in an error.
        data: its verified bytes.

    Raises:
        InvalidManifest: it is no JSON mapping, too large, or nested too deep.
        UnsafeModel: it asks for code of its own, or names a file elsewhere.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise InvalidManifest(f"'{name}' is larger than the {MAX_CONFIG_BYTES:,} bytes allowed")
    try:
        values = json.loads(data, object_pairs_hook=_unique)  # -Infinity is usual
        keys = [(key, value) for key, value in _pairs(values, 0) if value not in (None, False, {})]
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"'{name}' is no sound JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidManifest(f"'{name}' must be a JSON mapping")
    for key, value in keys:
        if key in _CODE_KEYS:
            raise UnsafeModel(
                f"'{name}' asks for code or a back end of its own ('{key}'): never followed; "
                "remove the entry, and the model if it cannot do without"
            )
        if key.endswith("_file") and isinstance(value, str):
            raise UnsafeModel(
                f"'{name}' names a file by '{key}'; a component's files are found by their usual "
                "names alone: remove the entry"
            )
    return values


def shards(name: str, data: bytes) -> tuple[str, ...]:
    """The weight files that an index names, sorted.

    Raises:
        InvalidManifest: it is no index.
        UnsafeModel: it names a file outside its folder, or one that is no safetensors file.
    """
    table = read_config(name, data).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise InvalidManifest(f"'{name}' has no `weight_map`")
    files = {str(file) for file in table.values()}
    for file in sorted(files):
        if not is_file_name(file) or not file.endswith(".safetensors"):
            raise UnsafeModel(
                f"'{name}' names '{file[:128]}', which is no safetensors file of its own folder"
            )
    return tuple(sorted(files))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a field is given twice")
    return table


def _pairs(values: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield key, value
            yield from _pairs(value, depth + 1)
    elif isinstance(values, list):
        for value in values:
            yield from _pairs(value, depth + 1)
