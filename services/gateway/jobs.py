"""``/v1/jobs``: the native routes' work, done after the request is answered, whatever dies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Query, Request
from starlette.responses import Response

from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.bulk_plans import plan_bulk
from services.gateway.examples import JOB, JOB_STREAM
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import find_model
from services.gateway.job_answers import JOBS_PATH, etag_of, job_json, saved_name, url_of
from services.gateway.job_events import open_job_stream
from services.gateway.job_plans import Sent, plan, read_submission
from services.gateway.job_schemas import JobList, JobObject, JobSubmission, StatusName
from services.gateway.openapi import CALL_ERRORS, documented, errors_of, guarded, request_body
from services.gateway.quotas import Quota
from services.jobs.bulk import BULK
from services.jobs.interface import Jobs
from services.jobs.words import (
    JobChange,
    JobQuery,
    JobRecord,
    JobRequest,
    JobStatus,
    Submitted,
)

JobId = Annotated[
    str,
    Path(
        max_length=64,
        description="As POST /v1/jobs gave it.",
        examples=["job-0123456789abcdef0123456789abcdef"],
    ),
]
_LOOK_ERRORS = (401, 404, 422, 429, 500, 503)
_FILE = {"schema": {"type": "string", "format": "binary"}}


def job_response(gateway: Gateway, record: JobRecord, status: int = 200) -> Response:
    """A job as JSON; while it is not done, ``Retry-After`` says when to ask again."""
    headers = {"etag": etag_of(record)}
    if not record.status.final:
        headers["retry-after"] = str(gateway.settings.jobs.retry_after)
    response = json_response(job_json(record), headers)
    response.status_code = status
    return response


async def accept(gateway: Gateway, request: Request, job: JobRequest, sent: Sent) -> Submitted:
    """Accept a job that was planned, unless its owner has used up what the key may use.

    Raises:
        QuotaExceeded: so it is.
        AtelierError: as `services.jobs.interface.Jobs.submit`.
    """
    exchange = exchange_of(request)
    await gateway.meter.check(exchange)
    done = await gateway.durable.submit(job, idempotency_key=sent.key, fingerprint=sent.fingerprint)
    exchange.account.job = done.record.id
    return done


def life_of(jobs: Jobs) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Have jobs worked on for as long as the application runs."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await jobs.open()
        try:
            yield
        finally:
            await jobs.close()

    return life


def charge_owner(gateway: Gateway) -> None:
    """Have owners charged the device seconds of their jobs, once these are known."""

    async def charge(change: JobChange) -> None:
        record = change.record
        if record.device_quota is not None and record.device_seconds > 0:
            quota = Quota(*record.device_quota)
            await gateway.meter.charge(record.owner, quota, record.device_seconds)

    gateway.durable.subscribe(charge)


def job_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """Submit, look, wait, fetch, cancel. Another key's job does not exist."""
    router = APIRouter(prefix=JOBS_PATH, tags=["jobs"], dependencies=guarded(keys))
    jobs = gateway.durable

    @router.post(
        "",
        status_code=202,
        summary="Accept work to be done later",
        operation_id="submit_job",
        responses={
            202: {"model": JobObject, "description": "It will be done. `Location` says where."},
            **errors_of(409, *CALL_ERRORS),
        },
        openapi_extra=request_body(JobSubmission, json=JOB),
    )
    async def submit(request: Request) -> Response:
        """Take what a native route would do as a durable job.

        The request is checked in full before it is accepted, by the policies too. From then on the
        job survives the death of any process, and comes to one end. With the header
        ``Idempotency-Key`` it can be sent again safely: the same key and body give the same job
        for 24 hours.

        What a policy holds is made, and then kept for a reviewer: such a job ends as `failed` with
        `held_for_review`, and its error says where to ask what became of it.

        The task ``bulk`` makes thousands of images as a labelled dataset: `request` is a model, a
        grid of values or a list of requests, and a number of seeds. The result lists tar files in
        the order of WebDataset, with their SHA-256, and an index with a line for each image.
        """
        sent = await read_submission(gateway, request)
        planned = plan_bulk if sent.asked.task == BULK else plan
        job = await planned(gateway, request, sent)
        done = await accept(gateway, request, job, sent)
        response = job_response(gateway, done.record, 202)
        response.headers["location"] = url_of(done.record.id)
        if done.replayed:
            response.headers["idempotent-replayed"] = "true"
        return response

    @router.get(
        "",
        summary="List jobs, newest first",
        operation_id="list_jobs",
        responses=documented(JobList, 403, *_LOOK_ERRORS),
    )
    async def listed(
        request: Request,
        status: Annotated[StatusName | None, Query()] = None,
        model: Annotated[str | None, Query(max_length=128)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[
            str | None, Query(max_length=256, description="`next_cursor` of the page before.")
        ] = None,
    ) -> Response:
        """The jobs of this key."""
        exchange = exchange_of(request)
        if model is not None:
            await find_model(gateway, exchange, model)
        wanted = None if status is None else JobStatus(status)
        page = await jobs.list(exchange.owner, JobQuery(wanted, model, limit, cursor))
        return json_response(
            {
                "object": "list",
                "data": [job_json(record) for record in page.jobs],
                "next_cursor": page.cursor,
            }
        )

    @router.get(
        "/{job_id}",
        summary="How a job is",
        operation_id="get_job",
        responses={
            **documented(JobObject, *_LOOK_ERRORS),
            304: {"description": "It is as `If-None-Match` says."},
        },
    )
    async def get(request: Request, job_id: JobId) -> Response:
        """Ask with ``If-None-Match`` and no sooner than ``Retry-After``, or follow its events."""
        record = await jobs.get(exchange_of(request).owner, job_id)
        response = job_response(gateway, record)
        if request.headers.get("if-none-match") != etag_of(record):
            return response
        kept = ("etag", "retry-after")
        return Response(
            status_code=304, headers={k: v for k, v in response.headers.items() if k in kept}
        )

    @router.delete(
        "/{job_id}",
        summary="Cancel a job, or remove one that is done",
        operation_id="delete_job",
        responses={
            **documented(JobObject, *_LOOK_ERRORS),
            204: {"description": "It was done, and is gone with its files."},
        },
    )
    async def delete(request: Request, job_id: JobId) -> Response:
        """A job that is not done is canceled: its rows leave their batch within a step."""
        owner = exchange_of(request).owner
        if (await jobs.get(owner, job_id)).status.final:
            await jobs.delete(owner, job_id)
            return Response(status_code=204)
        return job_response(gateway, await jobs.cancel(owner, job_id))

    @router.get(
        "/{job_id}/events",
        summary="Follow a job",
        operation_id="job_events",
        response_class=Response,
        responses={
            200: {
                "description": "Events until the job's end.",
                "content": {"text/event-stream": {"example": JOB_STREAM}},
            },
            204: {"description": "`Last-Event-ID` was the last there is."},
            **errors_of(*_LOOK_ERRORS),
        },
    )
    async def events(request: Request, job_id: JobId) -> Response:
        """``queued``, ``progress``, then ``image`` for each image and ``done``, or ``error``.

        Who reads slowly is told the latest, not everything. After a lost connection the header
        ``Last-Event-ID`` goes on where it broke off, as browsers do by themselves.
        """
        return await open_job_stream(gateway, request, job_id)

    @router.get(
        "/{job_id}/artefacts/{index}",
        summary="Fetch a file that a job made",
        operation_id="job_artefact",
        response_class=Response,
        responses={
            200: {"description": "The file.", "content": {"image/png": _FILE}},
            304: {"description": "It is the one that `If-None-Match` names."},
            **errors_of(*_LOOK_ERRORS),
        },
    )
    async def artefact(
        request: Request, job_id: JobId, index: Annotated[int, Path(ge=0, le=10**6)]
    ) -> Response:
        """One file, for as long as the job is kept."""
        owner = exchange_of(request).owner
        file, content = await jobs.artefact(owner, job_id, index)
        headers = {
            "etag": f'"{file.sha256}"',
            "cache-control": "private, no-cache",
            "content-disposition": f'attachment; filename="{saved_name(job_id, file)}"',
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=file.media_type)

    return router
