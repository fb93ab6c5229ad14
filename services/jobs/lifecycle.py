"""What replicas do with jobs, each in one transaction: take up, go on, come to an end.

Whoever takes a job up gets the number of this attempt. Every later change names replica and
attempt, and happens only while the job is still theirs: so a job that was taken from a replica
that seemed dead cannot be ended twice, whenever that one wakes up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.core.errors import AtelierError, DeadlineExceeded, EngineFailure
from services.jobs.database import Database
from services.jobs.rows import dumps, record_of
from services.jobs.settings import JobSettings
from services.jobs.store import UNFINISHED, announce, no_room, row_of
from services.jobs.tables import jobs
from services.jobs.words import JobRecord, JobStatus


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this replica has taken up.

    Attributes:
        record: as it is from now on.
        body: the work.
        checkpoint: what an earlier attempt saved.
        room: bytes that are kept for its files.
    """

    record: JobRecord
    body: Mapping[str, Any]
    checkpoint: Mapping[str, Any] | None
    room: int

    @property
    def attempt(self) -> int:
        """By which every later change proves that the job is still ours."""
        return self.record.attempts


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job came to its end: with an outcome as JSON, or with an error."""

    status: JobStatus
    outcome: str | None = None
    error: AtelierError | None = None
    size: int = 0


class Lifecycle:
    """The table of jobs, as one replica may touch it."""

    def __init__(self, database: Database, settings: JobSettings, replica: str) -> None:
        """Take the database, open or not, and the replica's id."""
        self._database, self._settings, self._replica = database, settings, replica

    async def claim(self, job_id: str, dispatch: int) -> Claim | None:
        """Take a job up; ``None`` where it is done, is another's, or has a later place."""
        now = time.time()
        free = (
            (jobs.c.id == job_id)
            & (jobs.c.dispatch == dispatch)
            & jobs.c.holder.is_(None)
            & jobs.c.status.in_(UNFINISHED)
        )

        def take(connection: sa.Connection) -> Claim | None:
            before = connection.execute(sa.select(jobs).where(free)).mappings().one_or_none()
            if before is None:
                return None
            refusal = self._refusal(before, now)
            if refusal is not None:
                self._end(connection, free, job_id, Ending(JobStatus.FAILED, error=refusal))
                return None
            taken = connection.execute(
                jobs.update()
                .where(free)
                .values(
                    status=JobStatus.RUNNING,
                    version=jobs.c.version + 1,
                    started=sa.func.coalesce(jobs.c.started, now),
                    holder=self._replica,
                    attempts=jobs.c.attempts + 1,
                )
            )
            if not taken.rowcount:
                return None
            row = row_of(connection, job_id)
            if before["status"] == JobStatus.QUEUED:
                announce(connection, job_id, now)
            checkpoint = json.loads(row["checkpoint"]) if row["checkpoint"] else None
            body = json.loads(row["request"])["body"]
            return Claim(record_of(row), body, checkpoint, row["bytes"])

        return await self._database.insist(take)

    async def finish(self, claim: Claim, ending: Ending) -> bool:
        """Come to an end, once; false where the job was no longer ours.

        Asked again after a lost connection it says true: the end that is there is this one.
        """
        ours = self._ours(claim)

        def end(connection: sa.Connection) -> bool:
            if self._end(connection, ours, claim.record.id, ending):
                return True
            asked = sa.select(jobs.c.status, jobs.c.attempts).where(jobs.c.id == claim.record.id)
            found = connection.execute(asked).one_or_none()
            return found is not None and tuple(found) == (ending.status, claim.attempt)

        return await self._database.insist(end)

    async def attend(self, progress: Mapping[str, tuple[Claim, int, float]]) -> set[str]:
        """Note how far this replica's jobs are, and learn which of them are still its own.

        Args:
            progress: by job, the claim with the rows done and the share done.

        Raises:
            Unavailable: the database did not answer.
        """

        def look(connection: sa.Connection) -> set[str]:
            for job_id, (claim, rows_done, share) in progress.items():
                further = (jobs.c.progress != share) | (jobs.c.rows_done != rows_done)
                connection.execute(
                    jobs.update()
                    .where((jobs.c.id == job_id) & self._ours(claim) & further)
                    .values(version=jobs.c.version + 1, progress=share, rows_done=rows_done)
                )
            asked = sa.select(jobs.c.id).where(jobs.c.holder == self._replica)
            return set(connection.execute(asked).scalars())

        return await self._database.write(look)

    async def save(self, claim: Claim, checkpoint: Mapping[str, Any]) -> bool:
        """Keep a checkpoint; false where the job is no longer ours."""
        change = jobs.update().where(self._ours(claim)).values(checkpoint=dumps(checkpoint))
        return await self._database.insist(lambda c: c.execute(change).rowcount > 0)

    async def enlarge(self, claim: Claim, size: int) -> None:
        """Count the files of a job that outgrew the room that was kept for it.

        Raises:
            StorageQuotaExceeded: they do not fit.
        """
        settings, owner = self._settings, claim.record.owner

        def grow(connection: sa.Connection) -> None:
            self._database.alone(connection)
            others = sa.select(
                sa.func.coalesce(sa.func.sum(jobs.c.bytes), 0),
                sa.func.coalesce(
                    sa.func.sum(sa.case((jobs.c.owner == owner, jobs.c.bytes), else_=0)), 0
                ),
            ).where(jobs.c.id != claim.record.id)
            total, owned = connection.execute(others).one()
            if owned + size > settings.owner_bytes:
                raise no_room(size, owned, settings.owner_bytes, "yours")
            if total + size > settings.total_bytes:
                raise no_room(size, total, settings.total_bytes, "everybody's")
            connection.execute(jobs.update().where(self._ours(claim)).values(bytes=size))

        await self._database.insist(grow)

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Leave jobs to another replica, or to the next start of this one."""
        for claim in claims:
            change = (
                jobs.update()
                .where(self._ours(claim))
                .values(
                    holder=None,
                    dispatch=jobs.c.dispatch + 1,
                    dispatched=0.0,
                    attempts=jobs.c.attempts - 1,  # it did not fail by itself
                )
            )
            await self._database.write(lambda c, change=change: c.execute(change))  # type: ignore[misc]

    async def expire(self, job_id: str) -> None:
        """Fail a job whose deadline passed while nobody could work on it."""
        now = time.time()
        late = (jobs.c.id == job_id) & jobs.c.status.in_(UNFINISHED) & (jobs.c.deadline < now)
        ending = Ending(JobStatus.FAILED, error=too_late())
        await self._database.write(lambda c: self._end(c, late, job_id, ending))

    def _ours(self, claim: Claim) -> sa.ColumnElement[bool]:
        return (
            (jobs.c.id == claim.record.id)
            & (jobs.c.holder == self._replica)
            & (jobs.c.attempts == claim.attempt)
            & (jobs.c.status == JobStatus.RUNNING)
        )

    def _refusal(self, row: sa.RowMapping, now: float) -> AtelierError | None:
        if row["deadline"] <= now:
            return too_late()
        if row["attempts"] >= self._settings.max_attempts:
            return EngineFailure(
                f"the process that worked on this job died {row['attempts']} times; it is not "
                "tried again"
            )
        return None

    def _end(
        self,
        connection: sa.Connection,
        where: sa.ColumnElement[bool],
        job_id: str,
        ending: Ending,
    ) -> bool:
        now = time.time()
        done = {"progress": 1.0, "rows_done": jobs.c.rows}
        changed = connection.execute(
            jobs.update()
            .where(where)
            .values(
                status=ending.status,
                version=jobs.c.version + 1,
                finished=now,
                expires=now + jobs.c.ttl,
                holder=None,
                outcome=ending.outcome,
                error=None if ending.error is None else dumps(ending.error.to_json()),
                bytes=sa.func.length(jobs.c.request) + len(ending.outcome or "") + ending.size,
                **(done if ending.status is JobStatus.SUCCEEDED else {}),
            )
        )
        if changed.rowcount:
            announce(connection, job_id, now)
        return changed.rowcount > 0


def too_late() -> DeadlineExceeded:
    """The error of a job that was not done in time."""
    return DeadlineExceeded(
        "the job was not done within its deadline; allow more time or ask for less work",
        param="deadline_seconds",
    )
