"""A job's changes on their way to a client, as server-sent events that can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from services.core.errors import InvalidParameter, JobNotFound
from services.gateway.dispatch import awaited, ended
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.job_answers import frames_of
from services.gateway.negotiation import EVENT_STREAM
from services.gateway.streams import HEARTBEAT, encoded
from services.jobs.words import JobRecord

LAST_EVENT_HEADER = "last-event-id"
_LONGEST_ID = 10


def last_event(request: Request) -> int:
    """The version of the job that a client has seen, by the id of the last event it read.

    Raises:
        InvalidParameter: it is no id of ours.
    """
    given = request.headers.get(LAST_EVENT_HEADER, "").strip()
    if not given:
        return 0
    if len(given) > _LONGEST_ID or not (given.isascii() and given.isdigit()):
        raise InvalidParameter(
            "Last-Event-ID must be the id of an event of this job", param="Last-Event-ID"
        )
    return int(given)


async def open_job_stream(gateway: Gateway, request: Request, job_id: str) -> Response:
    """The changes of a job from now on, or from where a client stopped reading.

    Where the client has seen the end already, the answer is 204, which tells it not to come back.

    Raises:
        JobNotFound: the caller has no such job.
    """
    records = gateway.durable.events(exchange_of(request).owner, job_id, after=last_event(request))
    try:
        first = await anext(records, None)
    except BaseException:
        await records.aclose()
        raise
    if first is None:
        return Response(status_code=204)
    headers = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
    pieces = pieces_of(first, records, gateway.settings.stream_heartbeat, _told)
    return StreamingResponse(pieces, media_type=EVENT_STREAM, headers=headers)


async def pieces_of(
    first: JobRecord,
    records: AsyncGenerator[JobRecord, None],
    pulse: float,
    told: Callable[[JobRecord], Awaitable[bytes]],
) -> AsyncGenerator[bytes, None]:
    """Events, and signs of life between them; a job that is removed meanwhile just ends."""
    upcoming: asyncio.Task[Any] | None = None
    record: JobRecord | None = first
    async with aclosing(records):
        try:
            while record is not None:
                yield await told(record)
                upcoming = asyncio.create_task(awaited(anext(records, None)))
                while not (await asyncio.wait({upcoming}, timeout=pulse))[0]:
                    yield HEARTBEAT
                record = upcoming.result()
        except JobNotFound:
            return
        finally:
            if upcoming is not None:
                await ended(upcoming)


async def _told(record: JobRecord) -> bytes:
    """All that is to be said of a record; the id comes with the last of it.

    So a client that lost the connection in between is told all of it again.
    """
    frames = [encoded(frame) for frame in frames_of(record)]
    return b"".join(frames[:-1]) + f"id: {record.version}\n".encode() + frames[-1]
