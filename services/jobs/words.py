"""What a job is: asked for, under way, done. Plain values, no torch and no HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from services.core.errors import AtelierError, from_json
from services.core.job import Timings


class JobStatus(StrEnum):
    """Where a job stands. The last three are final: nothing follows them."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Whom to tell of a job.

    Attributes:
        url: where.
        events: of what; empty for the final states.
    """

    url: str
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is to be done, checked in full before it is submitted.

    Attributes:
        owner: whose job it is; it is nobody else's.
        kind: what is done: ``generate``, ``edit``, ``likelihood``, ``encode``, or what another
            runner takes.
        model: the id of the model.
        body: the work as plain JSON; a file is named by its SHA-256.
        files: contents by their SHA-256, in hex.
        shown: what of the request is shown to its owner again, as plain JSON.
        rows: how many images or judgements will come of it, as far as is known.
        reserve_bytes: what its result may take; room is kept for so much.
        priority: 0 to 9, higher first; the share of a busy device doubles with each step.
        deadline_seconds: within which it is to be done, from its submission; the settings' own
            where it is ``None``, and never more than these allow.
        ttl_seconds: how long record and files are kept once it has come to its end; as above.
        metadata: the owner's own words.
        webhook: whom to tell.
        device_quota: amount and window, in seconds, of the owner's quota of device seconds.
    """

    owner: str
    kind: str
    model: str
    body: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 1
    reserve_bytes: int = 0
    priority: int = 5
    deadline_seconds: float | None = None
    ttl_seconds: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook: WebhookTarget | None = None
    device_quota: tuple[float, float] | None = None

    @property
    def file_bytes(self) -> int:
        """What its files take."""
        return sum(len(content) for content in self.files.values())


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file that a job made; ``sha256`` in hex, ``name`` for people who save it."""

    index: int
    name: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ResultItem:
    """One row of a result: values, and the index of its artefact where there is one."""

    values: Mapping[str, Any]
    artefact: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a runner gives back for a job that succeeded."""

    items: tuple[ResultItem, ...]
    timings: Timings = field(default_factory=Timings)
    device_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as its owner sees it. Times are seconds since 1970.

    Attributes:
        id: unguessable.
        owner: whose.
        kind: see `JobRequest`.
        model: its id.
        status: where it stands.
        version: grows with every change; equal versions are equal records.
        created: when it was accepted.
        started: when it was first taken up.
        finished: when it came to its end.
        expires: when record and files go; moves up when the job ends before its deadline.
        deadline: when it fails unless it is done.
        progress: the share that is done, in [0, 1].
        rows: how many rows there will be.
        rows_done: how many are done.
        attempts: how often it was taken up; more than once where a process died.
        error: what went wrong, as `AtelierError.to_json` tells it.
        items: the result.
        artefacts: its files, by index.
        timings: seconds by stage.
        device_seconds: its share of the device's.
        shown: of the request.
        priority: 0 to 9.
        metadata: the owner's own words.
        webhook: who is told.
        device_quota: see `JobRequest`.
    """

    id: str
    owner: str
    kind: str
    model: str
    status: JobStatus
    version: int
    created: float
    expires: float
    started: float | None = None
    finished: float | None = None
    deadline: float | None = None
    progress: float = 0.0
    rows: int = 1
    rows_done: int = 0
    attempts: int = 0
    error: Mapping[str, Any] | None = None
    items: tuple[ResultItem, ...] = ()
    artefacts: tuple[Artefact, ...] = ()
    timings: Timings | None = None
    device_seconds: float = 0.0
    shown: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 5
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook: WebhookTarget | None = None
    device_quota: tuple[float, float] | None = None

    @property
    def failure(self) -> AtelierError | None:
        """What went wrong, as the error that it was."""
        return None if self.error is None else from_json(self.error)


@dataclass(frozen=True, slots=True)
class JobChange:
    """A job has come into a state; ``record`` is what it was then.

    ``id`` is the same however often the change is told. States are told as they are entered; how
    far a job is, is not a change of state.
    """

    id: str
    at: float
    record: JobRecord


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list, newest first; ``cursor`` is the one that the page before gave."""

    status: JobStatus | None = None
    model: str | None = None
    limit: int = 20
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, and where the next ones begin; ``None`` after the last."""

    jobs: tuple[JobRecord, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The record, and whether it is that of an earlier request with the same idempotency key."""

    record: JobRecord
    replayed: bool = False


def digest_of(content: bytes) -> str:
    """The name of a file in a job's body: its SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()
