"""JSON as the standard means it: nothing that two parsers could read differently, and bounded.

Python's own parser accepts NaN, duplicate keys, integers of any length, lone surrogates and any
depth that the stack allows; each of these is refused here with the field that holds it.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from services.core.errors import BadRequest, InvalidParameter

MAX_NUMBER_CHARS = 32
"""A signed 64-bit integer has 20 characters, a shortest-form double at most 24."""

_MAX_INTEGER = 2**64
_SHOWN = 60


def parse_json(body: bytes | str, *, max_depth: int, max_values: int) -> Any:
    """Parse a JSON text.

    Args:
        body: the text; bytes are UTF-8.
        max_depth: how deep arrays and objects may be nested.
        max_values: how many commas and brackets there may be, counted before anything is parsed,
            since each of them can cost a hundred times its own size in memory.

    Raises:
        BadRequest: it is no JSON at all, truncated, or not UTF-8.
        InvalidParameter: it is JSON that no two parsers need agree on, or beyond a limit.
    """
    text = _decode(body) if isinstance(body, bytes) else body
    if not text.strip():
        raise BadRequest("the body is empty; a JSON object was expected")
    if sum(text.count(mark) for mark in ",[{") > max_values:
        raise InvalidParameter(f"the JSON has too many values; the limit is {max_values}")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    _inspect(value, max_depth)
    return value


def parse_object(body: bytes | str, *, max_depth: int, max_values: int) -> dict[str, Any]:
    """Parse a JSON object; see `parse_json` for what is refused."""
    value = parse_json(body, max_depth=max_depth, max_values=max_values)
    if not isinstance(value, dict):
        raise InvalidParameter(f"the body must be a JSON object, got {type(value).__name__}")
    return value


def check_text(text: str, param: str | None) -> None:
    """Refuse text that cannot be stored or sent on.

    Raises:
        InvalidParameter: it holds NUL, or half of a surrogate pair.
    """
    if "\x00" in text:
        raise InvalidParameter("text must not contain NUL (U+0000)", param=param)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter(
            "text must not contain lone surrogates (half of a \\uXXXX pair)", param=param
        ) from error


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: invalid byte at {error.start}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            shown = ascii(name[:_SHOWN])
            raise InvalidParameter(f"the field {shown} is given twice", param=shown.strip("'"))
        table[name] = value
    return table


def _constant(name: str) -> NoReturn:
    raise InvalidParameter(f"numbers must be finite, got {name}")


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARS or abs(int(digits)) > _MAX_INTEGER:
        raise InvalidParameter(f"integers must fit into 64 bits, got {digits[:_SHOWN]}...")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits[: 8 * _SHOWN]) if len(digits) <= 8 * _SHOWN else math.inf
    if not math.isfinite(value):
        raise InvalidParameter(f"numbers must be finite doubles, got {digits[:_SHOWN]}")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer, parse_float=_number
)
"""Made once: making one takes longer than reading a small body."""


def _too_deep(max_depth: int) -> InvalidParameter:
    return InvalidParameter(f"the JSON is nested too deeply; the limit is {max_depth} levels")


def _inspect(root: Any, max_depth: int) -> None:
    """Walk the parsed value without recursion: its depth, and every string in it."""
    pending: list[tuple[Any, int, str | None]] = [(root, 1, None)]
    while pending:
        value, depth, param = pending.pop()
        if isinstance(value, str):
            check_text(value, param)
            continue
        if not isinstance(value, dict | list):
            continue
        if depth > max_depth:
            raise _too_deep(max_depth)
        if isinstance(value, list):
            pending.extend((child, depth + 1, param) for child in value)
            continue
        for name, child in value.items():
            check_text(name, param)
            pending.append((child, depth + 1, param or name))
