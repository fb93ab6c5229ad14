"""A job as its owner reads it: as JSON, and as the events of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from services.core.errors import AtelierError, HeldForReview
from services.gateway.answers import stage_seconds
from services.gateway.envelopes import envelope
from services.gateway.errors import review_of, status_of
from services.gateway.streams import Frame
from services.jobs.words import Artefact, JobRecord, JobStatus, ResultItem

JOBS_PATH = "/v1/jobs"
_MILLISECONDS = 3


def url_of(job_id: str) -> str:
    """Where a job is."""
    return f"{JOBS_PATH}/{job_id}"


def artefact_url(job_id: str, index: int) -> str:
    """Where a file of a job is."""
    return f"{url_of(job_id)}/artefacts/{index}"


def saved_name(job_id: str, file: Artefact) -> str:
    """What a file is called where it is saved."""
    return f"{job_id}-{file.index:06d}{PurePosixPath(file.name).suffix}"


def etag_of(record: JobRecord) -> str:
    """Equal for equal records."""
    return f'"{record.version}"'


def job_json(record: JobRecord) -> dict[str, Any]:
    """A job, as `services.gateway.job_schemas.JobObject` describes it."""
    return {
        "id": record.id,
        "object": "job",
        "task": record.kind,
        "model": record.model,
        "status": record.status.value,
        "created": _moment(record.created),
        "started": _moment(record.started),
        "finished": _moment(record.finished),
        "deadline": _moment(record.deadline),
        "expires": _moment(record.expires),
        "progress": round(record.progress, 4),
        "rows": record.rows,
        "rows_done": record.rows_done,
        "attempts": record.attempts,
        "priority": record.priority,
        "metadata": dict(record.metadata),
        "webhook": None if record.webhook is None else asdict(record.webhook),
        "request": dict(record.shown),
        "data": _data(record) if record.status is JobStatus.SUCCEEDED else None,
        "artefacts": [_artefact(record.id, file) for file in record.artefacts],
        "error": _error(record),
        "timings": None if record.timings is None else stage_seconds(record.timings),
        "device_seconds": round(record.device_seconds, 6),
    }


def frames_of(record: JobRecord) -> Iterator[Frame]:
    """What a stream says of a job that has come to be so: in the words of the native streams."""
    about = {"job_id": record.id, "images": record.rows}
    if record.status is JobStatus.QUEUED:
        yield "queued", about
        return
    if record.status is JobStatus.RUNNING:
        yield (
            "progress",
            {
                "job_id": record.id,
                "progress": round(record.progress, 4),
                "rows_done": record.rows_done,
                "rows": record.rows,
            },
        )
        return
    if record.status is not JobStatus.SUCCEEDED:
        yield "error", {"job_id": record.id, "status": record.status.value, **_envelope(record)}
        return
    for index, row in enumerate(_data(record)):
        yield ("image" if "url" in row else "result"), {"index": index, **row}
    yield (
        "done",
        {
            "job_id": record.id,
            "model": record.model,
            "created": int(record.created),
            "timings": None if record.timings is None else stage_seconds(record.timings),
            "device_seconds": round(record.device_seconds, 6),
        },
    )


def _data(record: JobRecord) -> list[dict[str, Any]]:
    return [_row(record.id, item) for item in record.items]


def _row(job_id: str, item: ResultItem) -> dict[str, Any]:
    place = {} if item.artefact is None else {"url": artefact_url(job_id, item.artefact)}
    return {**place, **item.values}


def _artefact(job_id: str, file: Artefact) -> dict[str, Any]:
    return {
        "index": file.index,
        "url": artefact_url(job_id, file.index),
        "name": saved_name(job_id, file),
        "media_type": file.media_type,
        "bytes": file.size,
        "sha256": file.sha256,
    }


def _envelope(record: JobRecord) -> dict[str, Any]:
    failure = record.failure or AtelierError("the job was canceled")
    code = failure.code if record.status is JobStatus.FAILED else JobStatus.CANCELED.value
    said = envelope(status_of(failure), failure.message, code, failure.param)
    if isinstance(failure, HeldForReview):
        said["error"]["review"] = review_of(failure)
    return said


def _error(record: JobRecord) -> Any:
    return _envelope(record)["error"] if record.status is JobStatus.FAILED else None


def _moment(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _MILLISECONDS)
