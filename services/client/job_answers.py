"""Durable jobs, as types: what is sent, what they are, and what they came to."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, Field

from .answers import Image
from .errors import AtelierClientError
from .requests import Ask, body_of

JOBS = "/v1/jobs"
SECRET = "/v1/webhooks/default/secret"  # noqa: S105 - a path
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two questions of how a job is."""
FINAL = ("succeeded", "failed", "canceled")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class ReviewPlace(_Answer):
    """Where to ask what became of images that a policy holds."""

    id: str
    url: str


class JobError(_Answer):
    """Why a job failed; ``review`` is there where a policy holds what it made."""

    message: str
    code: str
    param: str | None = None
    review: ReviewPlace | None = None


class Artefact(_Answer):
    """A file that a job made; ``sha256`` in hex."""

    index: int
    url: str
    name: str
    media_type: str
    bytes: int
    sha256: str


class Job(_Answer):
    """A job. Times are seconds since 1970; ``progress`` is in [0, 1]."""

    id: str
    task: str
    model: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    created: float
    started: float | None = None
    finished: float | None = None
    expires: float
    deadline: float | None = None
    progress: float = 0.0
    rows: int = 1
    rows_done: int = 0
    attempts: int = 0
    priority: int = 5
    metadata: dict[str, str] = {}
    request: dict[str, Any] = {}
    rows_of_result: Annotated[list[dict[str, Any]] | None, Field(alias="data")] = None
    artefacts: list[Artefact] = []
    error: JobError | None = None
    device_seconds: float = 0.0

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self.status in FINAL


class JobPage(_Answer):
    """Some jobs, newest first; ``next_cursor`` asks for those after them."""

    jobs: Annotated[list[Job], Field(alias="data")]
    next_cursor: str | None = None


class JobEvent(_Answer):
    """Something happened to a job.

    Attributes:
        kind: ``queued``, ``progress``, ``image``, ``result``, ``done`` or ``error``.
        data: what the server says of it.
    """

    kind: str
    data: dict[str, Any]

    @property
    def progress(self) -> float | None:
        """The share that is done, in [0, 1], where the event tells it."""
        found = self.data.get("progress")
        return None if found is None else float(found)


class JobResult(_Answer):
    """What a job came to: its record, its images, and the values of each row."""

    job: Job
    images: list[Image]
    rows: list[dict[str, Any]]


class Delivery(_Answer):
    """One webhook of a job on its way; ``said`` is what the last attempt came to."""

    id: str
    event: str
    url: str
    state: str
    attempts: int
    next_attempt: float | None = None
    said: str | None = None


class JobFailed(AtelierClientError):
    """A job whose result was asked for has failed, or was canceled.

    Attributes:
        job: its record.
    """

    def __init__(self, job: Job) -> None:
        why = job.error.message if job.error else f"it was {job.status}"
        super().__init__(f"{job.id}: {why}")
        self.job = job


def submit_ask(
    task: str,
    model: str,
    options: Mapping[str, Any],
    about: Mapping[str, Any],
    idempotency_key: str | None,
) -> Ask:
    """``POST /v1/jobs``, safe to be sent again: it always carries a key."""
    body = {"task": task, "request": body_of(task, model, options)}
    body |= {name: value for name, value in about.items() if value is not None}
    key = idempotency_key or str(uuid.uuid4())
    return Ask("POST", JOBS, body, {"idempotency-key": key})


def list_ask(**wanted: Any) -> Ask:
    """``GET /v1/jobs``."""
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    return Ask("GET", f"{JOBS}?{query}" if query else JOBS)


def job_path(job: str | Job, *more: str) -> str:
    """Where a job is, by its record or id."""
    name = job.id if isinstance(job, Job) else job
    return "/".join([JOBS, quote(name, safe=""), *more])


def path_of_artefact(job: Job, artefact: Artefact) -> str:
    """Where a file is."""
    return job_path(job, "artefacts", str(artefact.index))


def checked(artefact: Artefact, content: bytes) -> bytes:
    """The content of a file, which is the one that the job made.

    Raises:
        AtelierClientError: it is another.
    """
    if hashlib.sha256(content).hexdigest() != artefact.sha256:
        raise AtelierClientError(f"{artefact.name} came changed; fetch it again")
    return content


def images_of(job: Job) -> list[Artefact]:
    """The files that are images, in the order of the rows."""
    return [file for file in job.artefacts if file.media_type.startswith("image/")]


def result_of(job: Job, contents: Sequence[bytes]) -> JobResult:
    """A result from the images' files."""
    rows = job.rows_of_result or []
    shown = [row for row in rows if "url" in row]
    images = []
    for place, content in enumerate(contents):
        values = shown[place] if place < len(shown) else {}
        image = Image.model_construct(data=content, seed=values.get("seed"))
        images.append(image)
    return JobResult(job=job, images=images, rows=rows)


def finished(job: Job) -> Job:
    """The job, if it succeeded.

    Raises:
        JobFailed: it did not.
    """
    if job.status != "succeeded":
        raise JobFailed(job)
    return job


def place_for(folder: str | Path, artefact: Artefact) -> Path:
    """Where a file goes; the server's name for it can lead nowhere else."""
    return Path(folder) / Path(artefact.name).name


class JobEventReader:
    """Takes the lines of a job's stream and gives its events; ``last_id`` resumes it."""

    def __init__(self) -> None:
        """Begin before the first event."""
        self.last_id: str | None = None
        self._name, self._data = "", list[str]()

    def take(self, line: str) -> JobEvent | None:
        """The event that a line completes."""
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            elif name == "id":
                self.last_id = value
            return None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        return JobEvent(kind=name, data=json.loads(data)) if data else None

    def broken_off(self) -> None:
        """The connection is lost: what was begun will be told again."""
        self._name, self._data = "", []
