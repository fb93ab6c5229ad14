"""What others know of jobs: how they are asked for, and how a kind of them is carried out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from services.jobs.database import Database
from services.jobs.words import (
    Artefact,
    JobChange,
    JobPage,
    JobQuery,
    JobRecord,
    JobRequest,
    JobStatus,
    Outcome,
    Submitted,
)

Listener = Callable[[JobChange], Awaitable[None]]
"""Told of every change of state, in one of the replicas, at least once, and again if it raises."""


class Jobs(Protocol):
    """Durable jobs. Every question names the owner: another's job is one that does not exist."""

    async def submit(
        self, request: JobRequest, *, idempotency_key: str | None = None, fingerprint: str = ""
    ) -> Submitted:
        """Accept a job: from here on it will be done, whatever dies.

        Args:
            request: checked in full.
            idempotency_key: of the owner's; the same key and fingerprint give the same job.
            fingerprint: of what the client sent, where a key is given.

        Raises:
            QueueFull: as many jobs wait as may.
            StorageQuotaExceeded: its files would not fit; the message says how to free space.
            IdempotencyKeyReused: the key came with another fingerprint.
            IdempotencyKeyInFlight: a request with this key is being accepted right now.
            Unavailable: the database cannot be reached.
        """
        ...

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """One job.

        Raises:
            JobNotFound: the owner has none of that id.
        """
        ...

    async def list(self, owner: str, query: JobQuery) -> JobPage:
        """Some of the owner's jobs, newest first.

        Raises:
            InvalidParameter: the cursor is none of ours.
        """
        ...

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """End a job that is not done yet; its rows leave the device within a step.

        One that has come to its end stays as it is. The record says which.

        Raises:
            JobNotFound: the owner has none of that id.
        """
        ...

    async def delete(self, owner: str, job_id: str) -> None:
        """Remove a job with its files, canceling it first where it is not done yet.

        Raises:
            JobNotFound: the owner has none of that id.
        """
        ...

    def events(self, owner: str, job_id: str, *, after: int = 0) -> AsyncGenerator[JobRecord, None]:
        """The record now, if its version is above ``after``, and whenever it has changed.

        Ends after a final state. Whoever reads slowly sees the latest, not everything.

        Raises:
            JobNotFound: the owner has none of that id, or it was deleted meanwhile.
        """
        ...

    async def artefact(self, owner: str, job_id: str, index: int) -> tuple[Artefact, bytes]:
        """One file that a job made.

        Raises:
            JobNotFound: the owner has no such job, or the job no such file (yet).
        """
        ...

    def subscribe(self, listener: Listener) -> None:
        """Have a listener told of every change of state; before `open`, in every replica."""
        ...

    def alongside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something run for as long as jobs are open, in every replica; before `open`.

        It is cancelled by `close`.
        """
        ...

    @property
    def database(self) -> Database:
        """Where jobs are, for what belongs to them; open while they are."""
        ...

    async def counts(self) -> Mapping[JobStatus, int]:
        """How many jobs of all owners are in each state."""
        ...

    async def open(self) -> None:
        """Begin to take up work. Must be called in the event loop of the backend.

        Does not fail: what cannot be reached now is tried again.
        """
        ...

    async def close(self) -> None:
        """Take up no more; what is under way is left to another replica, or to the next start."""
        ...


class Work(Protocol):
    """One job under way, as its runner sees it. Any call may raise `Canceled`."""

    @property
    def record(self) -> JobRecord:
        """As it was when it was taken up."""
        ...

    @property
    def body(self) -> Mapping[str, Any]:
        """`JobRequest.body`."""
        ...

    async def file(self, digest: str) -> bytes:
        """A file of the request, by its SHA-256."""
        ...

    def report(self, *, rows_done: int, progress: float) -> None:
        """Say how far it is; told on now and then. ``progress`` in [0, 1]."""
        ...

    async def put(self, index: int, content: bytes, media_type: str) -> Artefact:
        """Keep a file of the result; again with the same index takes the place of the first.

        Raises:
            StorageQuotaExceeded: the owner has no room left.
        """
        ...

    def adopt(self, artefact: Artefact) -> None:
        """Count among the result a file that an earlier attempt put, as its checkpoint says."""
        ...

    async def checkpoint(self) -> Mapping[str, Any] | None:
        """What was saved last, by this attempt or an earlier one."""
        ...

    async def save(self, checkpoint: Mapping[str, Any]) -> None:
        """Save plain JSON for an attempt that would follow this one's death."""
        ...

    def seconds_left(self) -> float | None:
        """Until the job's deadline."""
        ...


class Runner(Protocol):
    """Carries out jobs of some kinds. May be called again for a job whose process died."""

    async def run(self, work: Work) -> Outcome:
        """Do the work. Being cancelled means that it is no longer wanted here.

        Raises:
            AtelierError: the job fails with it; `QueueFull` and `Unavailable` are tried again.
        """
        ...
