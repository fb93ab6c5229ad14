"""From ``"task": "bulk"`` to a job of thousands of images, each checked before any is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from services.core.errors import InvalidParameter, TooLarge, UnsupportedTask
from services.core.job import Task
from services.core.model import ModelInfo
from services.core.validation import explain
from services.core.versions import of_version
from services.gateway.exchange import Exchange, Gateway, exchange_of
from services.gateway.intake import Payload, find_model, parse
from services.gateway.job_plans import Sent, check_body, image_file_bytes, job_terms, priority_of
from services.gateway.job_policies import judge_bulk
from services.gateway.limits import check_limits, check_size
from services.gateway.schemas import GenerateRequest
from services.gateway.settings import GatewaySettings
from services.jobs.bulk import BULK
from services.jobs.bulk_plan import BulkPlan, BulkRequest, samples_asked_for
from services.jobs.words import JobRequest

_OUR_OWN = {
    "model": "a bulk job has one model",
    "n": "a grid has an 'n' beside it",
    "output_format": "all images of a dataset have one format, which stands beside the samples",
    "output_compression": "it stands beside the samples",
    "response": "a job's files are fetched one by one",
    "preview_every": "a job shows no previews",
    "deadline": "a job has `deadline_seconds` of its own",
    "control": "images cannot be sent with the samples of a bulk job",
    "latents": "latents cannot be sent with the samples of a bulk job",
}
_SHOWN_COMBINATIONS = 20
_SAMPLE_OVERHEAD = 4096
"""Bytes of a sample beside its image: two headers, padding, and what is said of it."""


async def plan_bulk(gateway: Gateway, request: Request, sent: Sent) -> JobRequest:
    """The job for a submission; every sample is checked as POST /v1/generate checks it.

    Raises:
        Forbidden: the key may not do this, or not with this model.
        InvalidParameter: a field is wrong; the message says of which combination.
        TooLarge: there are more samples than one job may have.
        ContentPolicyViolation: a policy refuses what is asked for in any of them.
        AtelierError: as POST /v1/generate.
    """
    exchange, settings = exchange_of(request), gateway.settings
    exchange.task = Task.GENERATE.value
    if sent.payload.images or sent.payload.mask is not None:
        raise InvalidParameter("a bulk job takes no files", param="image")
    asked = parse(BulkRequest, Payload(dict(sent.asked.request)))
    model = await find_model(gateway, exchange, asked.model)
    if Task.GENERATE.value not in model.operations:
        raise UnsupportedTask(f"{model.id} makes no images from noise", param="model")
    samples = _counted(asked, settings.jobs.max_bulk_samples)
    await asyncio.to_thread(_check_samples, asked, exchange, model, settings)
    quota = exchange.caller.device_seconds
    priority = priority_of(exchange, sent.asked)
    job = JobRequest(
        owner=exchange.owner,
        kind=BULK,
        model=model.id,
        body=asked.model_dump(mode="json", exclude_none=True)
        | {"model": of_version(model.id, exchange.version)},
        shown=_shown(asked, samples),
        rows=samples,
        reserve_bytes=samples * (image_file_bytes(model) + _SAMPLE_OVERHEAD),
        device_quota=None if quota is None else (quota.amount, quota.window),
        **job_terms(gateway, sent.asked, priority),
    )
    check_body(gateway, job)
    await judge_bulk(gateway, exchange, asked, model=model.id, samples=samples)
    return job


def _counted(asked: BulkRequest, most: int) -> int:
    """How many samples there will be.

    Raises:
        InvalidParameter: an ``n`` is no number.
        TooLarge: there are too many.
    """
    try:
        samples = samples_asked_for(asked)
    except ValueError as error:
        raise InvalidParameter(str(error), param="requests") from error
    if samples > most:
        raise TooLarge(
            f"{samples} images; one bulk job may make {most}; send several", param="request"
        )
    return samples


def _check_samples(
    asked: BulkRequest, exchange: Exchange, model: ModelInfo, settings: GatewaySettings
) -> None:
    """Check every combination; samples of one differ in nothing but their seeds.

    Raises:
        InvalidParameter, TooLarge, Forbidden: naming the combination.
    """
    given: list[Mapping[str, Any]] = [asked.common, *(asked.requests or []), asked.grid or {}]
    for place, fields in enumerate(given):
        listed = asked.requests is not None and 0 < place <= len(asked.requests)
        for name, why in _OUR_OWN.items():
            if name in fields and not (listed and name == "n"):
                raise InvalidParameter(f"'{name}' has no place in a sample: {why}", param=name)
    for number, combination in enumerate(_combinations(asked)):
        try:
            one = GenerateRequest.model_validate({**combination, "model": model.id}, strict=True)
        except ValidationError as error:
            wrong = explain(error, allowed=GenerateRequest.model_fields)
            raise InvalidParameter(
                f"combination {number}: {wrong.message}", param=wrong.param
            ) from error
        if one.cascade is not None:
            exchange.caller.check_model(one.cascade)
        check_limits(one, settings)
        check_size(one.size, model)


def _combinations(asked: BulkRequest) -> list[Mapping[str, Any]]:
    try:
        return BulkPlan(asked).combinations
    except (TypeError, ValueError) as error:
        raise InvalidParameter(f"a seed must be a number: {error}", param="seed") from error


def _shown(asked: BulkRequest, samples: int) -> dict[str, Any]:
    """What of the request its owner is shown again: all but long lists."""
    plain = asked.model_dump(mode="json", exclude_none=True, exclude={"model"})
    for name in ("requests", "grid"):
        if len(str(plain.get(name, ""))) > _SHOWN_COMBINATIONS * 100:
            del plain[name]
    return {**plain, "samples": samples}
