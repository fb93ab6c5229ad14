"""The shape of an error, which is each client's own: one per prefix of the routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from services.gateway.answers import ErrorEnvelope

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_SENTENCES = ("/v2", "/hf")
"""Prefixes whose clients expect an error to be a string."""


class SentenceEnvelope(BaseModel):
    """Every error under ``/v2`` and ``/hf`` has this shape."""

    error: str


def envelope(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's shape of an error."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def says_sentences(path: str) -> bool:
    """Whether the errors of a route are plain strings."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in _SENTENCES)


def envelope_for(
    path: str, status: int, message: str, code: str, param: str | None = None
) -> dict[str, Any]:
    """An error in the shape that the clients of a route expect."""
    if says_sentences(path):
        return {"error": message}
    return envelope(status, message, code, param)


def envelope_model(path: str) -> type[BaseModel]:
    """The schema of what `envelope_for` gives."""
    return SentenceEnvelope if says_sentences(path) else ErrorEnvelope
