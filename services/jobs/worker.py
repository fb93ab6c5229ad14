"""One replica at work: the jobs that it has taken up, and how each comes to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from services.core.errors import (
    AtelierError,
    Canceled,
    EngineFailure,
    QueueFull,
    Unavailable,
    Withheld,
)
from services.jobs.artefacts import ArtefactStore, artefact_name, input_name
from services.jobs.interface import Runner
from services.jobs.lifecycle import Claim, Ending, Lifecycle, too_late
from services.jobs.rows import outcome_json, spent_json
from services.jobs.words import Artefact, JobRecord, JobStatus, digest_of

_LATER = (QueueFull, Unavailable, Canceled)
"""What a job does not fail by: there is no room now, or a replica has gone."""
_LONGEST_PAUSE = 5.0
_LOG = logging.getLogger(__name__)


class JobWork:
    """Implements `services.jobs.interface.Work`."""

    def __init__(self, claim: Claim, lifecycle: Lifecycle, files: ArtefactStore) -> None:
        """Take a claim that is good, for now."""
        self.claim, self._lifecycle, self._files = claim, lifecycle, files
        self.artefacts: dict[int, Artefact] = {}
        self.rows_done, self.progress = 0, 0.0
        self.task: asyncio.Task[Ending] | None = None
        self._is_lost = False
        self._room = claim.room
        self._saved = claim.checkpoint

    @property
    def record(self) -> JobRecord:
        """See `Work.record`."""
        return self.claim.record

    @property
    def body(self) -> Mapping[str, Any]:
        """See `Work.body`."""
        return self.claim.body

    @property
    def size(self) -> int:
        """What its artefacts take."""
        return sum(artefact.size for artefact in self.artefacts.values())

    def lose(self) -> None:
        """It is no longer ours: stop."""
        self._is_lost = True
        if self.task is not None:
            self.task.cancel()

    async def file(self, digest: str) -> bytes:
        """See `Work.file`."""
        return await self._files.get(self.record.id, input_name(digest))

    def report(self, *, rows_done: int, progress: float) -> None:
        """See `Work.report`."""
        self.rows_done, self.progress = rows_done, min(1.0, max(0.0, progress))

    async def put(self, index: int, content: bytes, media_type: str) -> Artefact:
        """See `Work.put`."""
        self._check()
        name = artefact_name(index, self.claim.attempt, media_type)
        made = Artefact(index, name, media_type, len(content), digest_of(content))
        others = self.size - (self.artefacts[index].size if index in self.artefacts else 0)
        if others + made.size > self._room:
            await self._lifecycle.enlarge(self.claim, others + made.size)
            self._room = others + made.size
        self._check()
        await self._files.put(self.record.id, name, content)
        self.artefacts[index] = made
        return made

    def adopt(self, artefact: Artefact) -> None:
        """See `Work.adopt`."""
        self.artefacts[artefact.index] = artefact

    async def checkpoint(self) -> Mapping[str, Any] | None:
        """See `Work.checkpoint`."""
        return self._saved

    async def save(self, checkpoint: Mapping[str, Any]) -> None:
        """See `Work.save`."""
        if not await self._lifecycle.save(self.claim, checkpoint):
            self.lose()
            self._check()
        self._saved = checkpoint

    def seconds_left(self) -> float | None:
        """See `Work.seconds_left`."""
        deadline = self.record.deadline
        return None if deadline is None else max(0.0, deadline - time.time())

    def _check(self) -> None:
        if self._is_lost:
            raise Canceled("the job is no longer wanted here")


class Worker:
    """Takes jobs up, carries them out, and brings each to one end."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        files: ArtefactStore,
        runners: Mapping[str, Runner],
        *,
        poll_seconds: float,
    ) -> None:
        """Take the runners by the kinds of jobs that they carry out."""
        self._lifecycle, self._files, self._runners = lifecycle, files, runners
        self._poll_seconds = poll_seconds
        self._under_way: dict[str, JobWork] = {}
        self._closing = False

    async def perform(self, job_id: str, dispatch: int) -> None:
        """Take a job up and carry it to its end, unless it is not ours to have."""
        if self._closing:
            return
        claim = await self._lifecycle.claim(job_id, dispatch)
        if claim is None:
            return
        work = JobWork(claim, self._lifecycle, self._files)
        self._under_way[job_id] = work
        try:
            await self._carry(work)
        finally:
            if self._under_way.get(job_id) is work:
                del self._under_way[job_id]

    def drop(self, job_id: str) -> None:
        """Stop working on a job, if it is worked on here: it was canceled or removed."""
        work = self._under_way.get(job_id)
        if work is not None:
            work.lose()

    async def attend(self) -> None:
        """Tell how far jobs are and learn which are no longer wanted, for as long as it runs."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            known = dict(self._under_way)
            if not known:
                continue
            progress = {i: (work.claim, work.rows_done, work.progress) for i, work in known.items()}
            try:
                held = await self._lifecycle.attend(progress)
            except Unavailable:
                continue  # whoever took our jobs meanwhile will end them; we cannot
            for job_id, work in known.items():
                if job_id not in held:
                    work.lose()

    async def close(self) -> None:
        """Stop, and leave what is under way to others."""
        self._closing = True
        left = list(self._under_way.values())
        for work in left:
            work.lose()
        tasks = {work.task for work in left if work.task is not None}
        if tasks:
            await asyncio.wait(tasks)
        await self._lifecycle.give_back([work.claim for work in left])

    async def _carry(self, work: JobWork) -> None:
        work.task = task = asyncio.create_task(self._attempt(work))
        await asyncio.wait({task}, timeout=work.seconds_left())
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            ending = Ending(JobStatus.FAILED, error=too_late())
        elif task.cancelled():
            return
        else:
            ending = task.result()
        if not await self._lifecycle.finish(work.claim, ending):
            _LOG.info("job %s had come to another end", work.record.id)

    async def _attempt(self, work: JobWork) -> Ending:
        """Run a job until there is an ending; what can pass is waited for."""
        runner, pause = self._runners[work.record.kind], 0.1
        while True:
            try:
                outcome = await runner.run(work)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                await asyncio.sleep(pause)  # it was the backend that gave the call up
            except _LATER as error:
                pause = min(2 * pause, _LONGEST_PAUSE)
                await asyncio.sleep(min(error.retry_after or pause, _LONGEST_PAUSE))
            except Withheld as error:  # it was worked on all the same
                return Ending(JobStatus.FAILED, spent_json(error.device_seconds), error=error)
            except AtelierError as error:
                return Ending(JobStatus.FAILED, error=error)
            except Exception:  # noqa: BLE001 - a bug must end its job, not the worker
                _LOG.exception("job %s failed unexpectedly", work.record.id)
                message = f"the service failed unexpectedly; it was logged as {work.record.id}"
                return Ending(JobStatus.FAILED, error=EngineFailure(message))
            else:
                result = outcome_json(outcome, work.artefacts)
                return Ending(JobStatus.SUCCEEDED, result, size=work.size)
