"""The shape of an error, which is each client's own: one per prefix of the routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from services.gateway.answers import ErrorEnvelope

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_NAMED = frozenset(status.value for status in HTTPStatus)
_SENTENCES = ("/v2", "/hf")
"""Prefixes whose clients expect an error to be a string."""


_PROBLEMS = re.compile(
    r"/v1/(predictions|files|webhooks)(/|$)"
    r"|/v1/models/(atelier/.|[^/]+/[^/]+/(predictions|versions)(/|$))"
)
"""Routes whose clients expect RFC 9457: those of Replicate."""
PROBLEM_TYPE = "application/problem+json"


class ProblemEnvelope(BaseModel):
    """Every error of the routes for Replicate's clients has this shape (RFC 9457)."""

    type: str
    title: str
    detail: str
    status: int
    code: str
    param: str | None


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


def says_problems(path: str) -> bool:
    """Whether the errors of a route are of RFC 9457."""
    return _PROBLEMS.match(path) is not None


def media_type_for(path: str) -> str:
    """What an error of a route is sent as."""
    return PROBLEM_TYPE if says_problems(path) else "application/json"


def envelope_for(
    path: str, status: int, message: str, code: str, param: str | None = None
) -> dict[str, Any]:
    """An error in the shape that the clients of a route expect."""
    if says_sentences(path):
        return {"error": message}
    if says_problems(path):
        return {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase if status in _NAMED else code,
            "detail": message,
            "status": status,
            "code": code,
            "param": param,
        }
    return envelope(status, message, code, param)


def envelope_model(path: str) -> type[BaseModel]:
    """The schema of what `envelope_for` gives."""
    if says_problems(path):
        return ProblemEnvelope
    return SentenceEnvelope if says_sentences(path) else ErrorEnvelope
