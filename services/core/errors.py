"""Everything that can go wrong, as types.

An error says what was wrong, what the limit is and what would be right. It crosses process
boundaries as plain JSON (`to_json`, `from_json`), never pickled. What status code it becomes is the
gateway's business alone (`services/gateway/errors.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class AtelierError(Exception):
    """Base of every error that a caller can be told about.

    Args:
        message: one or two sentences for the caller: what was wrong and what would be right.
        param: the request field at fault, where there is one.
        retry_after: seconds after which trying again can help, where it can.
    """

    code: ClassVar[str] = "internal_error"
    carried: ClassVar[tuple[str, ...]] = ()
    """Texts of a kind's own that cross process boundaries too."""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same error."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "retry_after": self.retry_after,
            **{name: getattr(self, name) for name in self.carried},
        }


class BadRequest(AtelierError):
    """The request could not be read: no JSON, no multipart, a missing body."""

    code = "bad_request"


class InvalidApiKey(AtelierError):
    """The API key is missing or is none that the service knows."""

    code = "invalid_api_key"


class Forbidden(AtelierError):
    """The API key is good, but not for this; the message names the scope or model it lacks."""

    code = "forbidden"


class QuotaExceeded(AtelierError):
    """The API key has used what it may; `retry_after` says when there will be more."""

    code = "quota_exceeded"


class StorageQuotaExceeded(AtelierError):
    """The files of a job would not fit into what the owner, or everybody, may keep."""

    code = "storage_quota_exceeded"


class JobNotFound(AtelierError):
    """The owner has no job of that id, or the job no such file."""

    code = "job_not_found"


class IdempotencyKeyReused(AtelierError):
    """An idempotency key came again with another body."""

    code = "idempotency_key_reused"


class IdempotencyKeyInFlight(AtelierError):
    """The first request with an idempotency key is still being accepted."""

    code = "idempotency_key_in_flight"


class RequestNotFound(AtelierError):
    """No request of that id is in flight."""

    code = "request_not_found"


class Withheld(AtelierError):
    """A policy keeps back what was asked for, or what was made.

    ``policy`` is the name of the rule; ``device_seconds`` what had been used up by then, which
    crosses no process boundary.
    """

    code = "withheld"
    carried: ClassVar[tuple[str, ...]] = ("policy",)

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        policy: str = "",
        device_seconds: float = 0.0,
    ) -> None:
        super().__init__(message, param=param, retry_after=retry_after)
        self.policy, self.device_seconds = policy, device_seconds


class ContentPolicyViolation(Withheld):
    """A policy refused the request, or the images that came of it."""

    code = "content_policy_violation"


class HeldForReview(Withheld):
    """The images are made and kept until a reviewer decides; ``review`` is the id to ask for."""

    code = "held_for_review"
    carried: ClassVar[tuple[str, ...]] = ("policy", "review")

    def __init__(self, message: str, *, review: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.review = review


class ReviewNotFound(AtelierError):
    """No review of that id is the caller's to see."""

    code = "review_not_found"


class ReviewDecided(AtelierError):
    """A reviewer has decided already."""

    code = "review_decided"


class ReviewsFull(AtelierError):
    """What waits for a reviewer takes all the room that it may."""

    code = "reviews_full"


class AuditUnavailable(AtelierError):
    """The audit log cannot be written, and nothing may happen without it."""

    code = "audit_unavailable"


class InvalidParameter(AtelierError):
    """A field has the wrong type or value, is missing, or is not known."""

    code = "invalid_parameter"


class UnsupportedTask(AtelierError):
    """The model cannot do this; the message says why and what to use instead."""

    code = "unsupported_task"


class InvalidImage(AtelierError):
    """The bytes are no whole image: truncated, corrupt, or not what the header promised."""

    code = "invalid_image"


class UnsupportedMedia(AtelierError):
    """The content is neither PNG, JPEG nor WebP, or the body has an unknown content type."""

    code = "unsupported_media_type"


class TooLarge(AtelierError):
    """A body, part, image or prompt is over its limit."""

    code = "too_large"


class HeadersTooLarge(TooLarge):
    """There are too many header fields, or too many bytes of them."""

    code = "headers_too_large"


class ModelNotFound(AtelierError):
    """No such model; the message offers near names."""

    code = "model_not_found"


class DocumentNotFound(AtelierError):
    """The model comes without a card, or without a sample sheet."""

    code = "document_not_found"


class QueueFull(AtelierError):
    """The queue holds as much predicted work as it may; `retry_after` says when to come back."""

    code = "queue_full"


class DeadlineUnmeetable(AtelierError):
    """Refused at once: the predicted finish lies behind the request's deadline."""

    code = "deadline_unmeetable"


class DeadlineExceeded(AtelierError):
    """Accepted, but the deadline passed before the work was done."""

    code = "deadline_exceeded"


class Canceled(AtelierError):
    """The caller withdrew the request."""

    code = "canceled"


class Unavailable(AtelierError):
    """No replica can take the request now."""

    code = "unavailable"


class EngineFailure(AtelierError):
    """The model's own computation failed for this row; its neighbours were not affected."""

    code = "engine_failure"


class ProvenanceFailure(AtelierError):
    """An image was made whose origin could not be signed; it is not sent without."""

    code = "provenance_failure"


class OutOfDeviceMemory(AtelierError):
    """A single row does not fit into the device's memory."""

    code = "out_of_device_memory"


class ModelError(AtelierError):
    """Base of what can be wrong with a model's files."""

    code = "model_error"


class InvalidManifest(ModelError):
    """The manifest is missing, unreadable or says something impossible."""

    code = "invalid_manifest"


class IntegrityFailure(ModelError):
    """A file is missing or is not the one whose digest the manifest names; it was not opened."""

    code = "integrity_failure"


class UnsafeModel(ModelError):
    """A file is of a kind that is never loaded: a pickle, an archive of code, a link."""

    code = "unsafe_model"


class UntrustedModel(ModelError):
    """Nobody whom the operator trusts has signed the model as it is; it was not opened."""

    code = "untrusted_model"


class InvalidNetwork(ModelError):
    """A network cannot be opened, or its inputs and outputs are not what its family needs."""

    code = "invalid_network"


class ModelExists(ModelError):
    """The name is taken."""

    code = "model_exists"


def _known(kind: type[AtelierError]) -> dict[str, type[AtelierError]]:
    table = {kind.code: kind}
    for child in kind.__subclasses__():
        table |= _known(child)
    return table


def from_json(value: Mapping[str, Any]) -> AtelierError:
    """The error that `AtelierError.to_json` described; an unknown code becomes the base type."""
    kind = _known(AtelierError).get(value["code"], AtelierError)
    texts = {name: value[name] for name in kind.carried if isinstance(value.get(name), str)}
    return kind(
        value["message"],
        param=value.get("param"),
        retry_after=value.get("retry_after"),
        **texts,
    )
