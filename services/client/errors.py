"""What can go wrong, as types."""

from __future__ import annotations

from collections.abc import Mapping

import httpx


class AtelierClientError(Exception):
    """Base of every error of this client."""


class ConnectionFailed(AtelierClientError):
    """Nobody answered, or the connection broke."""


class ApiError(AtelierClientError):
    """What the server said was wrong.

    Attributes:
        status: HTTP status; of an error within a stream, the one it would have had.
        code: the server's word for it, such as ``model_not_found``.
        message: its sentence.
        param: the field at fault, where there is one.
        retry_after: seconds after which trying again can help, where it can.
        request_id: by which the operator finds it in the log.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidRequest(ApiError):
    """400, 409, 413, 415, 422: the request is wrong, too large, or not for this model."""


class NotAllowed(ApiError):
    """401, 403: the key is missing, wrong, or not good for this."""


class NotFound(ApiError):
    """404: no such model (the message offers near names) or request."""


class RateLimited(ApiError):
    """429: the queue or a quota is full; see ``retry_after``."""


class Unavailable(ApiError):
    """503, 504: nobody can take the request, or its deadline cannot be met."""


class ServerFailed(ApiError):
    """Any other error of the server."""


class HeldForReview(ApiError):
    """202: a policy keeps the answer until a reviewer has decided; ``review`` says where to ask."""

    review: str = ""


_KINDS: Mapping[int, type[ApiError]] = {
    400: InvalidRequest,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: InvalidRequest,
    429: RateLimited,
    503: Unavailable,
    504: Unavailable,
}
HELD_STATUS = 202
_REVIEWS = "/v1/reviews/"
_STATUS_OF_CODE: Mapping[str, int] = {
    "canceled": 499,
    "deadline_exceeded": 504,
    "queue_full": 429,
    "unavailable": 503,
}


def is_held(response: httpx.Response) -> bool:
    """Whether a reviewer decides before there is an answer."""
    return response.status_code == HELD_STATUS and _REVIEWS in response.headers.get("location", "")


def held(response: httpx.Response) -> HeldForReview:
    """What tells of a held answer."""
    review = response.headers["location"]
    error = HeldForReview(
        f"held for review; ask {review} until a reviewer has decided",
        status=HELD_STATUS,
        code="held_for_review",
        request_id=response.headers.get("x-request-id"),
    )
    error.review = review
    return error


def error_of(response: httpx.Response) -> ApiError:
    """The error that a response holds; its body must have been read."""
    status = response.status_code
    wait = response.headers.get("retry-after", "")
    retry_after = float(wait) if wait.isdecimal() else None
    request_id = response.headers.get("x-request-id")
    kind = _KINDS.get(status, ServerFailed)
    try:
        said = response.json()
        said = said.get("error", said)
        message, code = said.get("message") or said["detail"], said["code"]
        param = said.get("param")
    except (AttributeError, ValueError, KeyError, TypeError):
        message = (
            f"{response.url} answered {status} {response.reason_phrase}, and not as Atelier does; "
            "is this the right URL?"
        )
        return kind(message, status=status, code="not_atelier", request_id=request_id)
    return kind(
        message,
        status=status,
        code=code,
        param=param,
        retry_after=retry_after,
        request_id=request_id,
    )


def error_in_stream(said: Mapping[str, str | None]) -> ApiError:
    """The error that ended a stream."""
    code = said.get("code") or "internal_error"
    status = _STATUS_OF_CODE.get(code, 500)
    kind = _KINDS.get(status, ServerFailed)
    return kind(said.get("message") or code, status=status, code=code, param=said.get("param"))
