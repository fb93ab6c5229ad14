"""What no request does: signs of life, and care for what others have left behind.

Every replica does all of it. Whatever two of them find at the same moment, the change happens once:
each is one transaction that asks again whether there is still anything to do.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from services.core.errors import AtelierError
from services.jobs.artefacts import ArtefactStore
from services.jobs.database import Database
from services.jobs.dispatch import Dispatcher
from services.jobs.lifecycle import Lifecycle
from services.jobs.replicas import has_died, this_process
from services.jobs.rows import record_of
from services.jobs.settings import JobSettings
from services.jobs.store import UNFINISHED
from services.jobs.tables import jobs, keys, replicas
from services.jobs.words import JobStatus

_AT_ONCE = 200
"""Jobs looked after in one sweep, so that none takes long."""
_FORGET_REPLICAS_AFTER = 100
"""Leases after which a dead replica's row goes."""
_FOLDERS_EVERY = 300.0
"""Seconds between two looks at all folders, unless the grace is shorter."""
_QUEUE_EVERY = 60.0
"""Seconds between two looks at what the queue has kept, and how old that must be."""
_PLACE = (jobs.c.id, jobs.c.dispatch, jobs.c.priority, jobs.c.turn, jobs.c.dispatched)
_LOG = logging.getLogger(__name__)


class Sweeper:
    """Keeps one replica known to the others, and does what nobody else will."""

    def __init__(
        self,
        database: Database,
        lifecycle: Lifecycle,
        files: ArtefactStore,
        dispatcher: Dispatcher,
        settings: JobSettings,
        *,
        replica: str,
    ) -> None:
        """Take what there is to be swept."""
        self._database, self._lifecycle, self._files = database, lifecycle, files
        self._dispatcher, self._settings, self._replica = dispatcher, settings, replica
        self._process = this_process()
        self._connected: float | None = None
        self._folders_due = self._queue_due = 0.0

    async def run(self) -> None:
        """Sweep for as long as it runs; what fails is tried again with the next sweep."""
        while True:
            try:
                await self.sweep()
            except AtelierError as error:
                self._connected = None
                _LOG.info("a sweep ended early: %s", error.message)
            except Exception:  # noqa: BLE001 - the next sweep finds the same work
                self._connected = None
                _LOG.exception("a sweep failed")
            await asyncio.sleep(self._settings.sweep_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - so that replicas do not march in step

    async def sweep(self) -> None:
        """One round."""
        await self.beat()
        now = time.monotonic()
        self._connected = now if self._connected is None else self._connected
        await self._free_jobs(patient=now - self._connected < self._settings.lease_seconds)
        await self._dispatch()
        await self._end_late()
        await self._remove_expired()
        await self._tidy()
        await self._forget_keys()
        if now >= self._queue_due:
            self._queue_due = now + _QUEUE_EVERY
            await self._dispatcher.clean(await self._alive(), older=_QUEUE_EVERY)
        if now >= self._folders_due:
            self._folders_due = now + min(_FOLDERS_EVERY, self._settings.orphan_grace)
            await self._remove_orphans()

    async def beat(self) -> None:
        """Say that this replica is alive."""

        def say(connection: sa.Connection) -> None:
            clock = self._database.clock()
            mine = replicas.update().where(replicas.c.id == self._replica).values(seen=clock)
            if not connection.execute(mine).rowcount:
                row = {"id": self._replica, "process": self._process, "seen": clock}
                connection.execute(replicas.insert().values(**row))

        await self._database.write(say)

    async def leave(self) -> None:
        """Say that it is no more."""
        gone = replicas.delete().where(replicas.c.id == self._replica)
        await self._database.write(lambda connection: connection.execute(gone))

    async def dispatch(self, job_id: str) -> None:
        """Give a job that was just accepted its place in the queue."""
        for row in await self._rows(sa.select(*_PLACE).where(jobs.c.id == job_id)):
            await self._place(row)

    async def _place(self, row: sa.RowMapping) -> None:
        """Give a job its place in the queue, and note that it has one."""
        await self._dispatcher.enqueue(
            row["id"], row["dispatch"], priority=row["priority"], turn=row["turn"]
        )
        place = (jobs.c.id == row["id"]) & (jobs.c.dispatch == row["dispatch"])
        noted = jobs.update().where(place).values(dispatched=time.time())
        await self._database.write(lambda connection: connection.execute(noted))

    async def _free_jobs(self, *, patient: bool) -> None:
        """Take jobs from replicas that have died.

        Whoever has just come, or come back, is patient: when nobody could reach the database, all
        seem dead. A process of this machine that is no more is seen at once.
        """
        lease = self._settings.lease_seconds
        seen = await self._database.read(
            lambda c: c.execute(
                sa.select(
                    replicas.c.id, replicas.c.process, self._database.clock() - replicas.c.seen
                )
            ).all()
        )
        dead = {name for name, process, _ in seen if has_died(process)}
        alive = {name for name, _, age in seen if age < lease} - dead
        if patient:
            alive |= {name for name, _, age in seen if age >= lease} - dead
        forgotten = {name for name, _, age in seen if age > _FORGET_REPLICAS_AFTER * lease} | dead

        def free(connection: sa.Connection) -> int:
            freed = connection.execute(
                jobs.update()
                .where((jobs.c.status == JobStatus.RUNNING) & jobs.c.holder.not_in(alive))
                .values(holder=None, dispatch=jobs.c.dispatch + 1, dispatched=0.0)
            )
            if forgotten:
                connection.execute(replicas.delete().where(replicas.c.id.in_(forgotten)))
            return freed.rowcount

        freed = await self._database.write(free)
        if freed:
            _LOG.warning("%d jobs are taken from replicas that are no more", freed)

    async def _dispatch(self) -> None:
        """Give a place to every job that has none, or whose place was lost."""
        waiting = jobs.c.status.in_(UNFINISHED) & jobs.c.holder.is_(None)
        before = time.time() - self._settings.lease_seconds
        asked = (
            sa.select(*_PLACE)
            .where(waiting & (jobs.c.dispatched < before))
            .order_by(jobs.c.dispatched)
            .limit(_AT_ONCE)
        )
        found = await self._rows(asked)
        for row in found:
            if row["dispatched"] == 0.0:
                await self._place(row)
        placed = {row["id"]: row["dispatch"] for row in found if row["dispatched"] > 0.0}
        lost = await self._dispatcher.lost(placed, await self._alive())
        now = time.time()

        def renew(connection: sa.Connection) -> None:
            for job_id, number in placed.items():
                same = (jobs.c.id == job_id) & (jobs.c.dispatch == number) & waiting
                new = {"dispatch": number + 1, "dispatched": 0.0}
                values: dict[str, Any] = new if job_id in lost else {"dispatched": now}
                connection.execute(jobs.update().where(same).values(values))

        if placed:
            await self._database.write(renew)

    async def _alive(self) -> Collection[str]:
        since = self._database.clock() - self._settings.lease_seconds
        asked = sa.select(replicas.c.id, replicas.c.process).where(replicas.c.seen > since)
        found = await self._database.read(lambda c: c.execute(asked).all())
        return {name for name, process in found if not has_died(process)}

    async def _end_late(self) -> None:
        late = jobs.c.status.in_(UNFINISHED) & (
            jobs.c.deadline < time.time() - self._settings.sweep_seconds
        )
        for row in await self._rows(sa.select(jobs.c.id).where(late).limit(_AT_ONCE)):
            await self._lifecycle.expire(row["id"])

    async def _remove_expired(self) -> None:
        over = jobs.c.status.not_in(UNFINISHED) & (jobs.c.expires < time.time())
        asked = sa.select(jobs.c.id).where(over).limit(_AT_ONCE)
        for row in await self._rows(asked):
            gone = jobs.delete().where(jobs.c.id == row["id"])
            await self._database.write(lambda c, gone=gone: c.execute(gone))  # type: ignore[misc]
            await self._files.keep_only(row["id"], ())

    async def _tidy(self) -> None:
        """Of a job that has come to its end, keep the artefacts alone."""
        settled = time.time() - self._settings.lease_seconds  # whoever still wrote has stopped
        untidy = jobs.c.status.not_in(UNFINISHED) & ~jobs.c.tidy & (jobs.c.finished < settled)
        for row in await self._rows(sa.select(jobs).where(untidy).limit(_AT_ONCE)):
            names = {artefact.name for artefact in record_of(row).artefacts}
            await self._files.keep_only(row["id"], names)
            done = jobs.update().where(jobs.c.id == row["id"]).values(tidy=True)
            await self._database.write(lambda c, done=done: c.execute(done))  # type: ignore[misc]

    async def _forget_keys(self) -> None:
        old = keys.c.created < time.time() - self._settings.idempotency_seconds
        await self._database.write(lambda c: c.execute(keys.delete().where(old)))

    async def _remove_orphans(self) -> None:
        """Remove the folders of jobs that are not there, or were never accepted."""
        before = time.time() - self._settings.orphan_grace
        old = [name for name, changed in (await self._files.folders()).items() if changed < before]
        for start in range(0, len(old), _AT_ONCE):
            part = old[start : start + _AT_ONCE]
            known = {row["id"] for row in await self._rows(_known(part))}
            for name in set(part) - known:
                _LOG.info("the files of %s belong to no job and are removed", name)
                await self._files.keep_only(name, ())

    async def _rows(self, asked: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        return await self._database.read(lambda c: c.execute(asked).mappings().all())


def _known(names: Collection[str]) -> sa.Select[Any]:
    return sa.select(jobs.c.id).where(jobs.c.id.in_(names))
