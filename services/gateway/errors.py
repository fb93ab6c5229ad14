"""The only map from errors to HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from services.core.errors import (
    AtelierError,
    AuditUnavailable,
    BadRequest,
    Canceled,
    ContentPolicyViolation,
    DeadlineExceeded,
    DeadlineUnmeetable,
    DocumentNotFound,
    Forbidden,
    HeadersTooLarge,
    HeldForReview,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidApiKey,
    InvalidImage,
    InvalidParameter,
    JobNotFound,
    ModelNotFound,
    QueueFull,
    QuotaExceeded,
    RequestNotFound,
    ReviewDecided,
    ReviewNotFound,
    ReviewsFull,
    StorageQuotaExceeded,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
    UnsupportedTask,
)
from services.gateway.envelopes import envelope_for, media_type_for
from services.gateway.metrics import GatewayMetrics

STATUS: Mapping[type[AtelierError], int] = {
    BadRequest: 400,
    ContentPolicyViolation: 400,
    HeldForReview: 400,
    InvalidApiKey: 401,
    Forbidden: 403,
    ModelNotFound: 404,
    DocumentNotFound: 404,
    RequestNotFound: 404,
    ReviewNotFound: 404,
    ReviewDecided: 409,
    JobNotFound: 404,
    IdempotencyKeyInFlight: 409,
    TooLarge: 413,
    HeadersTooLarge: 431,
    UnsupportedMedia: 415,
    InvalidParameter: 422,
    UnsupportedTask: 422,
    InvalidImage: 422,
    IdempotencyKeyReused: 422,
    StorageQuotaExceeded: 429,
    QueueFull: 429,
    QuotaExceeded: 429,
    Canceled: 499,
    Unavailable: 503,
    ReviewsFull: 503,
    AuditUnavailable: 503,
    DeadlineUnmeetable: 504,
    DeadlineExceeded: 504,
    AtelierError: 500,
}
"""By the nearest type in the hierarchy; whatever is not named here is the service's fault."""

REASONS: Mapping[int, str] = {
    400: "The request could not be read, or a policy refused it (`content_policy_violation`).",
    401: "The API key is missing or wrong.",
    403: "The API key lacks a scope, or may not use this model.",
    404: "No such model (the message offers near names), or no such request or job.",
    405: "The route has another method.",
    409: "The first request with this idempotency key is still being accepted (see "
    "`Retry-After`), or a reviewer has decided already.",
    413: "A body, part, image or prompt is over its limit.",
    415: "The content is neither PNG, JPEG nor WebP, or the body has another content type.",
    422: "A field is wrong, missing or unknown, an image is broken, or the model cannot do this.",
    429: "The queue holds as much predicted work as it may, or the API key has used its quota "
    "of requests, device seconds or storage; see `Retry-After`.",
    431: "There are too many header fields, or they are too long.",
    499: "The client went away, or the request was withdrawn.",
    500: "The service failed.",
    503: "No replica can take the request now; see `Retry-After`.",
    504: "The deadline cannot be met, or has passed.",
}

_RETRY_HELPS: tuple[type[AtelierError], ...] = (
    QueueFull,
    QuotaExceeded,
    Unavailable,
    IdempotencyKeyInFlight,
)
_LONGEST_WAIT = 120
_NOT_REFUSALS: tuple[type[AtelierError], ...] = (Canceled, DeadlineExceeded, HeldForReview)
_SAY_ACCEPTED = ("/v1/generate", "/v1/edit")
"""Routes that answer 202 to what is held for review; clients of others know that for an error."""


def status_of(error: AtelierError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def _respond(
    body: Mapping[str, Any], status: int, headers: Mapping[str, str], path: str = ""
) -> Response:
    content = json.dumps(body, allow_nan=False).encode()
    return Response(content, status, dict(headers), media_type=media_type_for(path))


def error_response(
    error: AtelierError, path: str, *, max_retry_after: int = _LONGEST_WAIT
) -> Response:
    """An error as the client of a route sees it.

    ``Retry-After`` is in whole seconds, at least 1 and at most ``max_retry_after``.
    ``x-should-retry: false`` says where the same request would fail again.
    """
    if isinstance(error, HeldForReview) and path in _SAY_ACCEPTED:
        review = review_of(error)
        body = {"status": "held", "review": review}
        return _respond(body, 202, {"location": review["url"]})
    status = status_of(error)
    headers: dict[str, str] = {}
    wait = error.retry_after
    if wait is None and isinstance(error, _RETRY_HELPS):
        wait = 1.0
    if wait is not None and math.isfinite(wait):
        headers["retry-after"] = str(min(max(1, math.ceil(wait)), max_retry_after))
    if "retry-after" not in headers:
        headers["x-should-retry"] = "false"
    if isinstance(error, InvalidApiKey):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, Forbidden):
        headers["www-authenticate"] = 'Bearer error="insufficient_scope"'
    envelope = envelope_for(path, status, error.message, error.code, error.param)
    if isinstance(error, HeldForReview) and isinstance(envelope.get("error"), dict):
        envelope["error"]["review"] = review_of(error)
    return _respond(envelope, status, headers, path)


def review_of(error: HeldForReview) -> dict[str, str]:
    """Where the answer is to be asked for, once a reviewer has decided."""
    return {"id": error.review, "url": f"/v1/reviews/{error.review}"}


def unexpected_response(request_id: str, path: str) -> Response:
    """What a client sees of a bug: nothing but the id under which it was logged."""
    message = f"the service failed unexpectedly; it was logged as request {request_id}"
    return _respond(envelope_for(path, 500, message, AtelierError.code), 500, {}, path)


def _http_response(error: HTTPException, path: str) -> Response:
    codes = {404: "not_found", 405: "method_not_allowed"}
    messages = {
        404: "there is no such route; see /docs for all of them",
        405: "the route has another method; see the Allow header",
    }
    status = error.status_code
    message = messages.get(status, str(error.detail))
    headers = {"x-should-retry": "false", **(error.headers or {})}
    body = envelope_for(path, status, message, codes.get(status, "bad_request"))
    return _respond(body, status, headers, path)


def _first_complaint(error: RequestValidationError) -> InvalidParameter:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return InvalidParameter(f"'{name}': {first['msg']}", param=name)


def install_error_handlers(app: FastAPI, metrics: GatewayMetrics, *, max_retry_after: int) -> None:
    """Make every error of the app, FastAPI's own included, leave it in the envelope."""

    def refuse(request: Request, error: AtelierError) -> Response:
        if status_of(error) != 500 and not isinstance(error, _NOT_REFUSALS):
            metrics.rejected(error.code)
        return error_response(error, request.url.path, max_retry_after=max_retry_after)

    @app.exception_handler(AtelierError)
    async def on_typed(request: Request, error: AtelierError) -> Response:
        return refuse(request, error)

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, _: ClientDisconnect) -> Response:
        return refuse(request, Canceled("the client went away while it was sending"))

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> Response:
        return refuse(request, _first_complaint(error))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        return _http_response(error, request.url.path)
