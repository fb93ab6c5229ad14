"""A prediction's changes as Replicate's clients read them: server-sent events."""

from __future__ import annotations

import json
from functools import partial

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from services.gateway.exchange import Gateway, exchange_of
from services.gateway.job_events import pieces_of
from services.gateway.negotiation import EVENT_STREAM
from services.gateway.prediction_answers import progress_line, readable_outputs
from services.jobs.words import JobRecord, JobStatus


async def open_prediction_stream(
    gateway: Gateway, request: Request, job_id: str, base: str
) -> Response:
    """The changes of a prediction until its end.

    Raises:
        JobNotFound: the caller has no such prediction.
    """
    records = gateway.durable.events(exchange_of(request).owner, job_id)
    try:
        first = await anext(records)
    except BaseException:
        await records.aclose()
        raise
    headers = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
    told = partial(_told, gateway, base)
    pieces = pieces_of(first, records, gateway.settings.stream_heartbeat, told)
    return StreamingResponse(pieces, media_type=EVENT_STREAM, headers=headers)


async def _told(gateway: Gateway, base: str, record: JobRecord) -> bytes:
    if record.status is JobStatus.RUNNING:
        return _event("logs", f"{record.version}:0", progress_line(record).strip())
    if not record.status.final:
        return b""
    told = []
    for place, output in enumerate(await readable_outputs(gateway.durable, record, base) or ()):
        text = output if isinstance(output, str) else json.dumps(output)
        told.append(_event("output", f"{record.version}:{place}", text))
    if record.status is JobStatus.FAILED:
        failure = record.failure
        told.append(_event("error", f"{record.version}:error", failure.message if failure else ""))
    reason = {"reason": "canceled"} if record.status is JobStatus.CANCELED else {}
    told.append(_event("done", f"{record.version}:done", json.dumps(reason)))
    return b"".join(told)


def _event(name: str, event_id: str, data: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\nid: {event_id}\n{lines}\n".encode()
