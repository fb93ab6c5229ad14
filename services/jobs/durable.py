"""`services.jobs.interface.Jobs` over a database, a queue and a place for files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from services.core.errors import AtelierError, JobNotFound, Unavailable
from services.jobs.artefacts import ArtefactStore, input_name
from services.jobs.changes import Teller
from services.jobs.database import Database
from services.jobs.dispatch import Dispatcher
from services.jobs.interface import Listener, Runner
from services.jobs.lifecycle import Lifecycle
from services.jobs.replicas import new_replica_id
from services.jobs.settings import JobSettings
from services.jobs.store import JobStore, new_job_id
from services.jobs.sweep import Sweeper
from services.jobs.words import (
    Artefact,
    JobPage,
    JobQuery,
    JobRecord,
    JobRequest,
    JobStatus,
    Submitted,
)
from services.jobs.worker import Worker

_RETRY_SECONDS = 1.0
_LOG = logging.getLogger(__name__)


class DurableJobs:
    """Implements `services.jobs.interface.Jobs`, for one replica of the gateway.

    Args:
        settings: of jobs.
        runners: by the kinds of jobs that they carry out.
        folder: where the database and the files are, unless the settings say otherwise.
    """

    def __init__(
        self, settings: JobSettings, runners: Mapping[str, Runner], *, folder: Path
    ) -> None:
        self._settings = settings
        replica = new_replica_id()
        self._database = Database(
            settings.database_url or f"sqlite:///{folder.absolute() / 'jobs.sqlite'}"
        )
        self._files = ArtefactStore(settings.artefacts_url or str(folder.absolute() / "jobs"))
        self._store = JobStore(self._database, settings)
        lifecycle = Lifecycle(self._database, settings, replica)
        self._worker = Worker(lifecycle, self._files, runners, poll_seconds=settings.poll_seconds)
        self._dispatcher = Dispatcher(
            self._database,
            self._worker.perform,
            replica=replica,
            running=settings.running_per_replica,
            poll_seconds=2 * settings.poll_seconds,
        )
        self._sweeper = Sweeper(
            self._database, lifecycle, self._files, self._dispatcher, settings, replica=replica
        )
        self._teller = Teller(self._database, poll_seconds=4 * settings.poll_seconds)
        self._beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def subscribe(self, listener: Listener) -> None:
        """See `Jobs.subscribe`."""
        self._teller.subscribe(listener)

    def alongside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """See `Jobs.alongside`."""
        self._beside.append(work)

    @property
    def database(self) -> Database:
        """See `Jobs.database`."""
        return self._database

    async def open(self) -> None:
        """See `Jobs.open`.

        Where the database or the place for files cannot be reached, jobs are refused until they
        can; nothing else of the service waits for them.
        """
        try:
            await self._start()
        except Unavailable as error:
            _LOG.warning("no jobs are taken for now: %s", error.message)
            self._begin(self._start_later())

    async def _start_later(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            with contextlib.suppress(Unavailable):
                await self._start()
                _LOG.warning("jobs are taken again")
                return

    async def _start(self) -> None:
        await self._files.open()
        await self._database.open()
        await self._sweeper.beat()
        await self._dispatcher.open()
        for work in (self._sweeper.run(), self._teller.run(), self._worker.attend()):
            self._begin(work)
        for begin in self._beside:
            self._begin(begin())

    async def close(self) -> None:
        """See `Jobs.close`."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        with contextlib.suppress(AtelierError):  # then the others find out by themselves
            await self._worker.close()
            await self._sweeper.leave()
        await self._dispatcher.close()
        await self._database.close()
        self._files.close()

    async def submit(
        self, request: JobRequest, *, idempotency_key: str | None = None, fingerprint: str = ""
    ) -> Submitted:
        """See `Jobs.submit`."""
        if idempotency_key is None:
            return Submitted(await self._accept(request, None))
        earlier = await self._store.take_key(request.owner, idempotency_key, fingerprint)
        if earlier is not None:
            return Submitted(await self.get(request.owner, earlier), replayed=True)
        try:
            return Submitted(await self._accept(request, idempotency_key))
        except BaseException:
            with contextlib.suppress(AtelierError):
                await asyncio.shield(self._store.free_key(request.owner, idempotency_key))
            raise

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """See `Jobs.get`."""
        return await self._store.get(owner, job_id)

    async def list(self, owner: str, query: JobQuery) -> JobPage:
        """See `Jobs.list`."""
        return await self._store.list(owner, query)

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """See `Jobs.cancel`."""
        record = await self._store.cancel(owner, job_id)
        self._worker.drop(job_id)
        return record

    async def delete(self, owner: str, job_id: str) -> None:
        """See `Jobs.delete`."""
        await self.cancel(owner, job_id)
        await self._store.remove(job_id)
        with contextlib.suppress(AtelierError):  # what is left is found by a sweep
            await self._files.keep_only(job_id, ())

    async def events(
        self, owner: str, job_id: str, *, after: int = 0
    ) -> AsyncGenerator[JobRecord, None]:
        """See `Jobs.events`."""
        while True:
            if await self._store.version(owner, job_id) > after:
                record = await self._store.get(owner, job_id)
                yield record
                after = record.version
                if record.status.final:
                    return
            else:
                record = await self._store.get(owner, job_id)
                # Whatever came in between the two questions is told in the next round.
                if record.status.final and record.version <= after:
                    return
            await asyncio.sleep(self._settings.poll_seconds)

    async def artefact(self, owner: str, job_id: str, index: int) -> tuple[Artefact, bytes]:
        """See `Jobs.artefact`."""
        record = await self.get(owner, job_id)
        found = next((file for file in record.artefacts if file.index == index), None)
        if found is None:
            has = ", ".join(str(file.index) for file in record.artefacts[:20]) or "none"
            raise JobNotFound(
                f"the job is {record.status} and has no artefact {index}; it has: {has}",
                param="index",
            )
        return found, await self._files.get(job_id, found.name)

    async def counts(self) -> Mapping[JobStatus, int]:
        """See `Jobs.counts`."""
        return await self._store.counts()

    async def _accept(self, request: JobRequest, key: str | None) -> JobRecord:
        await self._store.check_room(request)
        job_id = new_job_id()
        try:
            for digest, content in request.files.items():
                await self._files.put(job_id, input_name(digest), content)
            record = await self._store.insert(job_id, request, key)
        except AtelierError:
            await self._take_back(job_id, request.owner)
            raise
        self._begin(self._dispatch(record))
        return record

    async def _take_back(self, job_id: str, owner: str) -> None:
        """Remove the files of a job that was refused, unless it was accepted after all."""
        with contextlib.suppress(AtelierError):
            try:
                await self._store.get(owner, job_id)
            except JobNotFound:
                await self._files.keep_only(job_id, ())

    async def _dispatch(self, record: JobRecord) -> None:
        with contextlib.suppress(AtelierError):  # a sweep gives it its place
            await self._sweeper.dispatch(record.id)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
