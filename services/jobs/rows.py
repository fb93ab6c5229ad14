"""Jobs as rows of a table, and as plain JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping

from services.core.job import Timings
from services.jobs.words import (
    Artefact,
    JobRecord,
    JobRequest,
    JobStatus,
    Outcome,
    ResultItem,
    WebhookTarget,
)

Plain = dict[str, Any]


def dumps(value: Any) -> str:
    """Strict JSON; what JSON has no number for is ``null``."""
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return value


def request_json(request: JobRequest) -> str:
    """What of a request is kept beside its files."""
    return dumps(
        {
            "body": request.body,
            "shown": request.shown,
            "metadata": request.metadata,
            "webhook": None if request.webhook is None else asdict(request.webhook),
            "device_quota": request.device_quota,
        }
    )


def outcome_json(outcome: Outcome, artefacts: Mapping[int, Artefact]) -> str:
    """What a job came to."""
    return dumps(
        {
            "items": [asdict(item) for item in outcome.items],
            "artefacts": [asdict(artefacts[index]) for index in sorted(artefacts)],
            "timings": asdict(outcome.timings),
            "device_seconds": outcome.device_seconds,
        }
    )


def spent_json(device_seconds: float) -> str:
    """What a job that failed used of the device."""
    return dumps({"device_seconds": device_seconds})


def record_of(row: RowMapping) -> JobRecord:
    """The record in a row of ``atelier_jobs``."""
    request = json.loads(row["request"])
    outcome = json.loads(row["outcome"]) if row["outcome"] else {}
    return JobRecord(
        id=row["id"],
        owner=row["owner"],
        kind=row["kind"],
        model=row["model"],
        status=JobStatus(row["status"]),
        version=row["version"],
        created=row["created"],
        expires=row["expires"],
        started=row["started"],
        finished=row["finished"],
        deadline=row["deadline"],
        progress=row["progress"],
        rows=row["rows"],
        rows_done=row["rows_done"],
        attempts=row["attempts"],
        priority=row["priority"],
        error=json.loads(row["error"]) if row["error"] else None,
        **_rest(request, outcome),
    )


def record_json(record: JobRecord) -> str:
    """A record that `record_from` reads again."""
    return dumps(asdict(record))


def record_from(text: str) -> JobRecord:
    """The record that `record_json` wrote."""
    plain = json.loads(text)
    return JobRecord(**{**plain, "status": JobStatus(plain["status"]), **_rest(plain, plain)})


def _rest(request: Plain, outcome: Plain) -> Plain:
    webhook, quota, timings = request["webhook"], request["device_quota"], outcome.get("timings")
    return {
        "shown": request["shown"],
        "metadata": request["metadata"],
        "webhook": webhook and WebhookTarget(webhook["url"], tuple(webhook["events"])),
        "device_quota": quota and (quota[0], quota[1]),
        "items": tuple(ResultItem(**item) for item in outcome.get("items", ())),
        "artefacts": tuple(Artefact(**file) for file in outcome.get("artefacts", ())),
        "timings": timings and Timings(**timings),
        "device_seconds": outcome.get("device_seconds", 0.0),
    }
