"""Pydantic's complaint as one of ours: the field at fault and a sentence a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from services.core.errors import InvalidParameter

SHOWN_INPUT = 60


def near(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """The known names that look most like ``name``, best first."""
    return difflib.get_close_matches(name[:128], list(known), n=count, cutoff=0.4)


def explain(error: ValidationError, *, allowed: Iterable[str] = ()) -> InvalidParameter:
    """The first complaint of a validation error, as `InvalidParameter`.

    Args:
        error: what pydantic raised.
        allowed: the field names that would have been right, offered when a field is unknown.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"] if part != "__root__")
    if first["type"] == "extra_forbidden":
        known = sorted(allowed)
        offer = f"; it takes {', '.join(known)}" if known else ""
        return InvalidParameter(f"unknown field '{path[:SHOWN_INPUT]}'{offer}", param=path)
    if first["type"] == "missing":
        return InvalidParameter(f"field '{path}' is missing", param=path)
    reason = first["msg"].removeprefix("Value error, ")
    given = repr(first["input"])
    if len(given) > SHOWN_INPUT:
        given = given[:SHOWN_INPUT] + "..."
    place = f"'{path}': " if path else ""
    return InvalidParameter(f"{place}{reason} (got {given})", param=path or None)
