"""A job in the words of Replicate's API: a prediction; and a model as one that can be run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.core.model import ModelInfo
from services.gateway.job_answers import artefact_url
from services.jobs.interface import Jobs
from services.jobs.words import JobRecord, JobStatus, ResultItem

PREDICTIONS_PATH = "/v1/predictions"
OWNER = "atelier"
"""Stands before each model's name, since Replicate's names have two parts."""
MARK = "prediction"
"""In what is shown of a job that was asked for as a prediction: the base of its URLs."""
MOST_INLINE_BYTES = 8 << 20
"""Of images within an answer, where no https URL can be given."""
_BAR = 20
_COG_VERSION = "0.9.0"

STATUS_OF: Mapping[JobStatus, str] = {
    JobStatus.QUEUED: "starting",
    JobStatus.RUNNING: "processing",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELED: "canceled",
}


def is_prediction(record: JobRecord) -> bool:
    """Whether a job was asked for as a prediction."""
    return MARK in record.shown


def prediction_body(record: JobRecord) -> dict[str, Any]:
    """What a webhook says of a prediction: the prediction, its images by URL."""
    base = str(record.shown.get(MARK, ""))
    return prediction_json(record, base, outputs(record, base))


def outputs(record: JobRecord, base: str) -> list[Any] | None:
    """The URLs of the images, and the values of what is no image; ``None`` before the end."""
    if record.status is not JobStatus.SUCCEEDED:
        return None
    return [_output(record.id, item, base) for item in record.items]


def _output(job_id: str, item: ResultItem, base: str) -> Any:
    if item.artefact is None:
        return dict(item.values)
    return base + artefact_url(job_id, item.artefact)


async def readable_outputs(jobs: Jobs, record: JobRecord, base: str) -> list[Any] | None:
    """Outputs that the client reads as files.

    It takes only ``https:`` and ``data:`` for those. Over plain http, images are in the answer
    itself, unless they are too large for that.
    """
    found = outputs(record, base)
    size = sum(file.size for file in record.artefacts)
    if found is None or base.startswith("https:") or size > MOST_INLINE_BYTES:
        return found
    return [
        given if item.artefact is None else await _inline(jobs, record, item.artefact)
        for given, item in zip(found, record.items, strict=True)
    ]


async def _inline(jobs: Jobs, record: JobRecord, index: int) -> str:
    file, content = await jobs.artefact(record.owner, record.id, index)
    return f"data:{file.media_type};base64,{base64.b64encode(content).decode()}"


def prediction_json(
    record: JobRecord, base: str, output: Sequence[Any] | None, *, status: str | None = None
) -> dict[str, Any]:
    """A job as a prediction.

    Args:
        record: the job.
        base: of its URLs, without a slash at the end.
        output: what it came to.
        status: in place of the job's own.
    """
    here = f"{base}{PREDICTIONS_PATH}/{record.id}"
    failure = record.failure if record.status is JobStatus.FAILED else None
    return {
        "id": record.id,
        "model": f"{OWNER}/{record.model}",
        "version": record.model,
        "status": status or STATUS_OF[record.status],
        "input": {name: value for name, value in record.shown.items() if name != MARK},
        "output": output,
        "logs": progress_line(record),
        "error": None if failure is None else failure.message,
        "created_at": moment(record.created),
        "started_at": moment(record.started),
        "completed_at": moment(record.finished),
        "metrics": _metrics(record),
        "data_removed": False,
        "urls": {"get": here, "cancel": f"{here}/cancel", "stream": f"{here}/stream"},
    }


def progress_line(record: JobRecord) -> str:
    """How far a job is, as the client's ``progress`` reads it: a bar as tqdm draws it."""
    if record.started is None:
        return ""
    done = round(record.progress * _BAR)
    bar = "#" * done + "-" * (_BAR - done)
    return f"{int(record.progress * 100)}%|{bar}| {record.rows_done}/{record.rows}\n"


def moment(seconds: float | None) -> str | None:
    """A time as ISO 8601 writes it."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _metrics(record: JobRecord) -> dict[str, float]:
    if record.finished is None:
        return {}
    began = record.finished if record.started is None else record.started
    return {
        "predict_time": round(record.finished - began, 6),
        "total_time": round(record.finished - record.created, 6),
        "device_seconds": round(record.device_seconds, 6),
    }


def model_json(model: ModelInfo, base: str) -> dict[str, Any]:
    """A model as Replicate describes one; what the service does not know is ``None``."""
    return {
        "url": f"{base}/v1/models/{OWNER}/{model.id}",
        "owner": OWNER,
        "name": model.id,
        "description": model.description,
        "visibility": "private",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version_json(model),
    }


def version_json(model: ModelInfo) -> dict[str, Any]:
    """A model's one version, which has the model's name."""
    result = {"type": "array", "items": {"type": "string", "format": "uri"}}
    schemas = {"Input": model.operations.get("generate", {"type": "object"}), "Output": result}
    return {
        "id": model.id,
        "created_at": moment(float(model.created)),
        "cog_version": _COG_VERSION,
        "openapi_schema": {"openapi": "3.1.0", "components": {"schemas": schemas}},
    }
