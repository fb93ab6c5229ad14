"""Telling listeners what jobs have come to: durably, at least once, in whichever replica."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import sqlalchemy as sa

from services.core.errors import Unavailable
from services.jobs.database import Database
from services.jobs.interface import Listener
from services.jobs.rows import record_from
from services.jobs.tables import changes
from services.jobs.words import JobChange

_AT_ONCE = 20
_PATIENCE_SECONDS = 60.0
"""A replica that took a change and did not tell it within so long has died, or failed."""
_LONGEST_PAUSE = 600.0
_MOST_TRIES = 100
_LOG = logging.getLogger(__name__)


class Teller:
    """Hands every change to every listener.

    A change is noted in the transaction that makes it. It is forgotten when all listeners have
    returned; if one raises, or the process dies, all of them are told again.
    """

    def __init__(self, database: Database, *, poll_seconds: float) -> None:
        """Take the database, open or not."""
        self._database, self._poll_seconds = database, poll_seconds
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """See `services.jobs.interface.Jobs.subscribe`."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Tell for as long as it runs."""
        while True:
            try:
                told = await self.tell()
            except Unavailable:
                told = 0
            if not told:
                await asyncio.sleep(self._poll_seconds)

    async def tell(self) -> int:
        """Tell what is due, oldest first; how many changes that were."""
        taken = await self._take()
        for change, tries in taken:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS / 2):
                    for listener in self._listeners:
                        await listener(change)
            except Exception:  # noqa: BLE001 - whatever a listener raises, it is told again
                await self._later(change, tries)
            else:
                gone = changes.delete().where(changes.c.id == change.id)
                await self._database.write(lambda c, gone=gone: c.execute(gone))  # type: ignore[misc]
        return len(taken)

    async def _take(self) -> Sequence[tuple[JobChange, int]]:
        """Changes that are due, and that nobody else tells for a while."""
        now = time.time()
        due = (
            sa.select(changes)
            .where(changes.c.due <= now)
            .order_by(changes.c.at)
            .limit(_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        waits = sa.select(sa.exists().where(changes.c.due <= now))
        if not await self._database.read(lambda c: c.execute(waits).scalar()):
            return ()

        def take(connection: sa.Connection) -> Sequence[tuple[JobChange, int]]:
            found = connection.execute(due).mappings().all()
            connection.execute(
                changes.update()
                .where(changes.c.id.in_([row["id"] for row in found]))
                .values(due=now + _PATIENCE_SECONDS, tries=changes.c.tries + 1)
            )
            return [
                (JobChange(row["id"], row["at"], record_from(row["record"])), row["tries"] + 1)
                for row in found
            ]

        return await self._database.write(take)

    async def _later(self, change: JobChange, tries: int) -> None:
        _LOG.exception("a listener failed on %s, for the %d. time", change.id, tries)
        mine = changes.c.id == change.id
        if tries >= _MOST_TRIES:
            await self._database.write(lambda c: c.execute(changes.delete().where(mine)))
            return
        due = time.time() + min(2.0 ** min(tries, 20), _LONGEST_PAUSE)
        await self._database.write(
            lambda c: c.execute(changes.update().where(mine).values(due=due))
        )
