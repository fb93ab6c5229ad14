"""From the body of ``POST /v1/jobs`` to a job that will not fail for what could be seen before."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from services.core.errors import InvalidParameter, TooLarge, UnsupportedTask
from services.core.job import Call, Encoding, Task
from services.core.model import ModelInfo
from services.gateway.callers import weight_of
from services.gateway.exchange import Exchange, Gateway, exchange_of
from services.gateway.intake import Payload, build_call, find_model, parse, read_payload
from services.gateway.job_policies import judge_call
from services.gateway.job_schemas import JobSubmission
from services.gateway.limits import check_size
from services.gateway.negotiation import expected_images
from services.gateway.schemas import (
    CallRequest,
    EditRequest,
    EncodeRequest,
    GenerateRequest,
    ImageRequest,
    LikelihoodRequest,
)
from services.gateway.strict_json import parse_object
from services.jobs.calls import kept, shown_of
from services.jobs.rows import request_json
from services.jobs.webhooks import check_webhook
from services.jobs.words import JobRequest, WebhookTarget, digest_of

KEY_HEADER = "idempotency-key"
MOST_KEY_CHARS = 255

SCHEMAS: Mapping[Task, type[CallRequest]] = {
    Task.GENERATE: GenerateRequest,
    Task.EDIT: EditRequest,
    Task.LIKELIHOOD: LikelihoodRequest,
    Task.ENCODE: EncodeRequest,
}
_FORM_JSON = ("request", "metadata", "webhook")
_POINTLESS = {
    "response": "a job's images are fetched one by one",
    "preview_every": "a job shows no previews",
    "deadline": "a job has `deadline_seconds` of its own",
}
_FILE_OVERHEAD = 16 << 10
"""Bytes by which an image's file may be larger than its pixels."""
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MOST_KEY_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Sent:
    """A submission as it came, with the key by which the client may send it again."""

    asked: JobSubmission
    payload: Payload
    key: str | None
    fingerprint: str


async def read_submission(gateway: Gateway, request: Request) -> Sent:
    """Read a body of JSON, or a form with ``request`` as JSON and images as files.

    Raises:
        InvalidParameter: a field or the idempotency key is none.
        AtelierError: as `services.gateway.intake.read_payload`.
    """
    settings = gateway.settings
    key = idempotency_key(request)
    payload = await read_payload(request, settings)
    fields = dict(payload.fields)
    if payload.is_form:
        for name in _FORM_JSON:
            if isinstance(fields.get(name), str):
                fields[name] = parse_object(
                    fields[name],
                    max_depth=settings.max_json_depth,
                    max_values=settings.max_json_values,
                )
    asked = parse(JobSubmission, Payload(fields, is_form=payload.is_form))
    files = Payload({}, payload.images, payload.mask)
    return Sent(asked, files, key, fingerprint(fields, files))


def idempotency_key(request: Request) -> str | None:
    """The ``Idempotency-Key`` of a request.

    Raises:
        InvalidParameter: there are several, or it is too long, or not printable.
    """
    given = request.headers.getlist(KEY_HEADER)
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise InvalidParameter(
            f"the Idempotency-Key must be one value of 1 to {MOST_KEY_CHARS} printable ASCII "
            "characters without spaces, such as a UUID",
            param="Idempotency-Key",
        )
    return given[0]


async def plan(gateway: Gateway, request: Request, sent: Sent) -> JobRequest:
    """The job for a submission, checked as the task's own route checks it.

    Raises:
        Forbidden: the key may not do this, or not with this model.
        InvalidParameter: a field is wrong, or above what settings or key allow.
        ContentPolicyViolation: a policy refuses what is asked for.
        AtelierError: as the task's own route.
    """
    exchange, asked = exchange_of(request), sent.asked
    task = _task(asked.task)
    exchange.task = task.value
    call, model, rows, made = await _call(gateway, exchange, sent, task)
    priority = priority_of(exchange, asked)
    body, files = kept(replace(call, weight=weight_of(priority)))
    quota = exchange.caller.device_seconds
    job = JobRequest(
        owner=exchange.owner,
        kind=task.value,
        model=model.id,
        body=body,
        files=files,
        shown=shown_of(body),
        rows=rows,
        reserve_bytes=made * image_file_bytes(model),
        device_quota=None if quota is None else (quota.amount, quota.window),
        **job_terms(gateway, asked, priority),
    )
    check_body(gateway, job)
    await judge_call(gateway, exchange, call)
    return job


def job_terms(gateway: Gateway, asked: JobSubmission, priority: int) -> dict[str, Any]:
    """What a submission of any kind says of the job itself, as fields of `JobRequest`.

    Raises:
        InvalidParameter: a time or the metadata is over its limit.
    """
    settings = gateway.settings.jobs
    bounds = (
        ("deadline_seconds", asked.deadline_seconds, settings.max_deadline),
        ("ttl_seconds", asked.ttl_seconds, settings.max_ttl),
        ("metadata", len(asked.metadata), settings.max_metadata_values),
    )
    for name, value, most in bounds:
        if value is not None and value > most:
            raise InvalidParameter(f"'{name}' is {value:g}; the limit is {most:g}", param=name)
    hook = asked.webhook
    target = None if hook is None else WebhookTarget(hook.url, tuple(hook.events))
    if target is not None:
        check_webhook(target, gateway.settings.webhooks)
    return {
        "priority": priority,
        "deadline_seconds": asked.deadline_seconds,
        "ttl_seconds": asked.ttl_seconds,
        "metadata": asked.metadata,
        "webhook": target,
    }


def check_body(gateway: Gateway, job: JobRequest) -> None:
    """Refuse parameters that are too large to be kept.

    Raises:
        TooLarge: they are.
    """
    size, most = len(request_json(job)), gateway.settings.jobs.max_body_bytes
    if size > most:
        raise TooLarge(
            f"the parameters of a job take {size} bytes; the limit is {most}; send images as files",
            param="request",
        )


def _task(name: str) -> Task:
    try:
        return Task(name)
    except ValueError as error:
        raise InvalidParameter(
            f"'task' is {name[:40]!a}; tasks are {', '.join(Task)}", param="task"
        ) from error


def priority_of(exchange: Exchange, asked: JobSubmission) -> int:
    """The priority of a job: the key's own, or less.

    Raises:
        InvalidParameter: more than the key's own.
    """
    own = exchange.caller.priority
    if asked.priority is not None and asked.priority > own:
        raise InvalidParameter(
            f"'priority' is {asked.priority}; this key's own is {own}, and no job may have more",
            param="priority",
        )
    return own if asked.priority is None else asked.priority


async def _call(
    gateway: Gateway, exchange: Exchange, sent: Sent, task: Task
) -> tuple[Call, ModelInfo, int, int]:
    """The call, its model, its rows, and how many images it makes."""
    fields = {name: value for name, value in sent.asked.request.items() if value is not None}
    for name, why in _POINTLESS.items():
        if name in fields:
            raise InvalidParameter(f"'{name}' has no meaning here: {why}", param=name)
    payload = Payload(fields, sent.payload.images, sent.payload.mask)
    asked = parse(SCHEMAS[task], payload)
    model = await find_model(gateway, exchange, asked.model)
    encoding, rows = Encoding(), 0
    if isinstance(asked, ImageRequest):
        check_size(asked.size, model)
        rows = expected_images(asked, getattr(asked, "operation", task.value), model)
        quality = 100 if asked.output_compression is None else asked.output_compression
        encoding = Encoding(asked.output_format or "png", quality)
    call = build_call(gateway, exchange, asked, payload, task=task, encoding=encoding)
    if call.name not in model.operations:
        raise UnsupportedTask(
            f"{model.id} cannot {call.name}; it can: {', '.join(model.operations)}", param="task"
        )
    return call, model, rows or max(1, len(call.images)), rows


def image_file_bytes(model: ModelInfo) -> int:
    """What the file of an image takes at most."""
    height, width = model.resolution
    return height * width * model.channels + _FILE_OVERHEAD


def fingerprint(fields: Mapping[str, Any], files: Payload) -> str:
    """Equal for equal bodies, whatever the order of their fields."""
    contents = [*files.images, *([] if files.mask is None else [b"mask", files.mask])]
    digests = [digest_of(c if isinstance(c, bytes) else c.encode()) for c in contents]
    text = json.dumps([fields, digests], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
