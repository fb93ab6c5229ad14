"""What owners do with jobs, each in one transaction: submit, look, cancel, remove."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Mapping

import sqlalchemy as sa

from services.core.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidParameter,
    JobNotFound,
    QueueFull,
    StorageQuotaExceeded,
)
from services.jobs.database import Database
from services.jobs.rows import record_json, record_of, request_json
from services.jobs.settings import JobSettings
from services.jobs.tables import changes, jobs, keys
from services.jobs.words import JobPage, JobQuery, JobRecord, JobRequest, JobStatus

UNFINISHED = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
_ACCEPTING_SECONDS = 60.0
"""Whoever holds an idempotency key without a job for longer has died."""
_FULL_RETRY_SECONDS = 10.0
_ID_BYTES = 16


def new_job_id() -> str:
    """Unguessable, and safe as the name of a folder."""
    return f"job-{secrets.token_hex(_ID_BYTES)}"


def announce(connection: sa.Connection, job_id: str, now: float) -> JobRecord:
    """Note that a job has come into a new state, for whoever listens; in the same transaction."""
    record = record_of(row_of(connection, job_id))
    connection.execute(
        changes.insert().values(
            id=f"{record.id}-{record.version}", at=now, record=record_json(record), tries=0, due=0.0
        )
    )
    return record


def row_of(connection: sa.Connection, job_id: str) -> sa.RowMapping:
    """The row of a job that is there."""
    return connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().one()


class JobStore:
    """The table of jobs, as their owners may touch it."""

    def __init__(self, database: Database, settings: JobSettings) -> None:
        """Take the database, open or not."""
        self._database, self._settings = database, settings

    async def take_key(self, owner: str, key: str, fingerprint: str) -> str | None:
        """Reserve an idempotency key; or the id of the job that it stands for already.

        Raises:
            IdempotencyKeyReused: it came with another body.
            IdempotencyKeyInFlight: a request with it is being accepted.
        """
        now = time.time()

        def take(connection: sa.Connection) -> str | None:
            self._database.alone(connection)
            mine = (keys.c.owner == owner) & (keys.c.key == key)
            stale = (keys.c.created < now - self._settings.idempotency_seconds) | (
                keys.c.job.is_(None) & (keys.c.created < now - _ACCEPTING_SECONDS)
            )
            connection.execute(keys.delete().where(mine & stale))
            found = connection.execute(sa.select(keys).where(mine)).mappings().one_or_none()
            if found is None:
                connection.execute(
                    keys.insert().values(
                        owner=owner, key=key, fingerprint=fingerprint, job=None, created=now
                    )
                )
                return None
            return _job_of_key(found, fingerprint)

        return await self._database.write(take)

    async def free_key(self, owner: str, key: str) -> None:
        """Forget a key whose request was not accepted."""
        mine = (keys.c.owner == owner) & (keys.c.key == key) & keys.c.job.is_(None)
        await self._database.write(lambda c: c.execute(keys.delete().where(mine)))

    async def check_room(self, request: JobRequest) -> None:
        """Refuse a job that there is no room for, before its files are written.

        Raises:
            QueueFull, StorageQuotaExceeded: see `services.jobs.interface.Jobs.submit`.
        """
        await self._database.read(lambda connection: self._check_room(connection, request))

    async def insert(self, job_id: str, request: JobRequest, key: str | None) -> JobRecord:
        """Accept a job whose files are in place.

        Raises:
            QueueFull, StorageQuotaExceeded: see `services.jobs.interface.Jobs.submit`.
        """
        now, settings = time.time(), self._settings
        lasts = min(request.deadline_seconds or settings.default_deadline, settings.max_deadline)
        ttl = min(request.ttl_seconds or settings.default_ttl, settings.max_ttl)
        plain = request_json(request)

        def accept(connection: sa.Connection) -> JobRecord:
            self._database.alone(connection)
            self._check_room(connection, request)
            connection.execute(
                jobs.insert().values(
                    id=job_id,
                    owner=request.owner,
                    kind=request.kind,
                    model=request.model,
                    status=JobStatus.QUEUED,
                    version=1,
                    created=now,
                    deadline=now + lasts,
                    expires=now + lasts + ttl,
                    ttl=ttl,
                    priority=request.priority,
                    progress=0.0,
                    rows=request.rows,
                    rows_done=0,
                    attempts=0,
                    dispatch=1,
                    dispatched=0.0,
                    turn=self._turn(connection, request),
                    bytes=request.file_bytes + request.reserve_bytes + len(plain),
                    tidy=False,
                    request=plain,
                )
            )
            if key is not None:
                mine = (keys.c.owner == request.owner) & (keys.c.key == key)
                connection.execute(keys.update().where(mine).values(job=job_id))
            return announce(connection, job_id, now)

        return await self._database.write(accept)

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """See `services.jobs.interface.Jobs.get`."""
        mine = _mine(owner, job_id)
        found = await self._database.read(
            lambda connection: connection.execute(sa.select(jobs).where(mine)).mappings().first()
        )
        if found is None:
            raise no_such_job(job_id)
        return record_of(found)

    async def version(self, owner: str, job_id: str) -> int:
        """The version of a job's record, at less cost than all of it.

        Raises:
            JobNotFound: the owner has none of that id.
        """
        asked = sa.select(jobs.c.version).where(_mine(owner, job_id))
        found = await self._database.read(lambda connection: connection.execute(asked).scalar())
        if found is None:
            raise no_such_job(job_id)
        return int(found)

    async def list(self, owner: str, query: JobQuery) -> JobPage:
        """See `services.jobs.interface.Jobs.list`."""
        asked = sa.select(jobs).where(jobs.c.owner == owner)
        if query.status is not None:
            asked = asked.where(jobs.c.status == query.status)
        if query.model is not None:
            asked = asked.where(jobs.c.model == query.model)
        if query.cursor is not None:
            created, job_id = _read_cursor(query.cursor)
            earlier = (jobs.c.created == created) & (jobs.c.id < job_id)
            asked = asked.where((jobs.c.created < created) | earlier)
        asked = asked.order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(query.limit + 1)
        found = await self._database.read(lambda c: c.execute(asked).mappings().all())
        page = tuple(record_of(row) for row in found[: query.limit])
        return JobPage(page, _cursor(page[-1]) if len(found) > query.limit else None)

    async def counts(self) -> Mapping[JobStatus, int]:
        """See `services.jobs.interface.Jobs.counts`."""
        asked = sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)
        found = await self._database.read(lambda c: c.execute(asked).all())
        return {**dict.fromkeys(JobStatus, 0), **{JobStatus(s): n for s, n in found}}

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """See `services.jobs.interface.Jobs.cancel`."""
        now = time.time()

        def end(connection: sa.Connection) -> JobRecord | None:
            ended = connection.execute(
                jobs.update()
                .where(_mine(owner, job_id) & jobs.c.status.in_(UNFINISHED))
                .values(
                    status=JobStatus.CANCELED,
                    version=jobs.c.version + 1,
                    finished=now,
                    expires=now + jobs.c.ttl,
                    holder=None,
                    bytes=0,
                )
            )
            return announce(connection, job_id, now) if ended.rowcount else None

        return await self._database.write(end) or await self.get(owner, job_id)

    async def remove(self, job_id: str) -> None:
        """Forget a job; its files are then nobody's."""
        gone = jobs.delete().where(jobs.c.id == job_id)
        await self._database.write(lambda connection: connection.execute(gone))

    def _turn(self, connection: sa.Connection, request: JobRequest) -> int:
        """One after the owner's last job, but not before the last one that was begun.

        So owners take turns however many jobs each of them has waiting, and whoever comes is served
        before the second job of those who were there (start-time fair queueing).
        """
        begun = sa.case((jobs.c.started.is_not(None), jobs.c.turn))
        own = sa.case((jobs.c.owner == request.owner, jobs.c.turn))
        asked = sa.select(
            sa.func.coalesce(sa.func.max(begun), 0), sa.func.coalesce(sa.func.max(own), -1)
        ).where(jobs.c.priority == request.priority)
        last_begun, last_own = connection.execute(asked).one()
        return int(max(last_begun, last_own + 1))

    def _check_room(self, connection: sa.Connection, request: JobRequest) -> None:
        settings, waits = self._settings, jobs.c.status == JobStatus.QUEUED
        own = jobs.c.owner == request.owner
        asked = sa.select(
            sa.func.coalesce(sa.func.sum(jobs.c.bytes), 0),
            sa.func.coalesce(sa.func.sum(sa.case((own, jobs.c.bytes), else_=0)), 0),
            sa.func.coalesce(sa.func.sum(sa.case((waits, 1), else_=0)), 0),
            sa.func.coalesce(sa.func.sum(sa.case((waits & own, 1), else_=0)), 0),
        )
        total, owned, queued, queued_own = connection.execute(asked).one()
        bounds = (
            (queued, settings.max_queued, "the queue of jobs holds"),
            (queued_own, settings.max_queued_per_owner, "you have"),
        )
        for count, most, whose in bounds:
            if count >= most:
                raise QueueFull(
                    f"{whose} {count} waiting jobs; the limit is {most}",
                    retry_after=_FULL_RETRY_SECONDS,
                )
        needed = request.file_bytes + request.reserve_bytes
        rooms = (
            (owned, settings.owner_bytes, "yours"),
            (total, settings.total_bytes, "everybody's"),
        )
        for used, most, whose in rooms:
            if used + needed > most:
                raise no_room(needed, used, most, whose)


def no_room(needed: int, used: int, most: int, whose: str) -> StorageQuotaExceeded:
    """The error for files that do not fit."""
    return StorageQuotaExceeded(
        f"this job may take {needed} bytes; the limit for the files of jobs is {most}, and {whose} "
        f"take {used}. Remove finished jobs with DELETE /v1/jobs/{{id}}, give jobs a shorter "
        "ttl_seconds, or ask for less"
    )


def no_such_job(job_id: str) -> JobNotFound:
    """The error for a job that is not there, or is another's."""
    return JobNotFound(
        f"no job '{job_id[:80]}'; it may have expired, been removed, or be another key's",
        param="job_id",
    )


def _mine(owner: str, job_id: str) -> sa.ColumnElement[bool]:
    return (jobs.c.owner == owner) & (jobs.c.id == job_id)


def _job_of_key(found: sa.RowMapping, fingerprint: str) -> str:
    if found["fingerprint"] != fingerprint:
        raise IdempotencyKeyReused(
            "this Idempotency-Key came before with another body; use a new key for another job",
            param="Idempotency-Key",
        )
    if found["job"] is None:
        raise IdempotencyKeyInFlight(
            "a request with this Idempotency-Key is being accepted right now; ask again",
            param="Idempotency-Key",
            retry_after=1.0,
        )
    return str(found["job"])


def _cursor(last: JobRecord) -> str:
    return base64.urlsafe_b64encode(f"{last.created!r} {last.id}".encode()).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[float, str]:
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        created, job_id = plain.split(" ")
        return float(created), job_id
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(
            "the cursor is none; take `next_cursor` of the page before, or leave it out",
            param="cursor",
        ) from error
