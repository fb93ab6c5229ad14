"""Who works on a job next: a queue of DBOS, from which every replica takes what it has room for.

A job's place in the queue is a workflow named by the job and the number of its dispatch. DBOS hands
it to one replica, highest priority first. What became of the job is in our own table and nowhere
else: a workflow that was lost, whatever the reason, is replaced by the next dispatch.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypedDict, TypeVar

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    SetEnqueueOptions,
    SetWorkflowID,
)
from dbos._error import DBOSException
from dbos._serialization import DefaultSerializer
from sqlalchemy.exc import SQLAlchemyError

from services.core.errors import Unavailable
from services.jobs.database import Database

T = TypeVar("T")

APPLICATION = "atelier"
VERSION = "jobs-1"
"""Replicas of one version share a queue. It changes only when the meaning of a place in it does."""
QUEUE = "atelier-jobs"
_HIGHEST_PRIORITY = 9
_MOST_TURNS = 10**8
"""DBOS has 2^31 priorities."""
_THREADS = 2
_WAITING = ("ENQUEUED", "DELAYED")
_DONE = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_AT_ONCE = 500


class WorkflowFilter(TypedDict):
    """Arguments that every question to DBOS about our queue shares."""

    queue_name: str
    load_input: bool
    load_output: bool


Handler = Callable[[str, int], Coroutine[Any, Any, None]]
"""Works on a job of which it is given the id and the number of the dispatch; never raises."""


class Dispatcher:
    """The queue, as one replica uses it. DBOS allows one of them in a process at a time."""

    def __init__(
        self,
        database: Database,
        handler: Handler,
        *,
        replica: str,
        running: int,
        poll_seconds: float,
    ) -> None:
        """Nothing is opened before `open`.

        Args:
            database: where the queue is; its own tables lie beside ours.
            handler: does the work, in the loop in which `open` is called.
            replica: by which DBOS tells replicas apart.
            running: jobs that this replica works on at a time.
            poll_seconds: how often it looks for more.
        """
        self._database, self._handler = database, handler
        self._replica, self._running, self._poll_seconds = replica, running, poll_seconds
        # DBOS waits for a lost database for as long as it takes: in threads that are only its own,
        # and which know nothing of the workflow that whoever asks may be part of.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="atelier-dispatch")
        self._work: Callable[[str, int], Awaitable[None]] | None = None

    async def open(self) -> None:
        """Begin to take jobs.

        Raises:
            Unavailable: DBOS could not make its tables.
        """
        loop = asyncio.get_running_loop()

        async def work(job_id: str, dispatch: int) -> None:
            # An empty context: what the handler asks of DBOS is no step of this workflow.
            future = contextvars.Context().run(
                asyncio.run_coroutine_threadsafe, self._handler(job_id, dispatch), loop
            )
            await asyncio.wrap_future(future)

        def launch() -> None:
            # Whatever a row says of itself: no pickle is ever loaded.
            DefaultSerializer.deserialize = _refuse_pickle  # type: ignore[method-assign,assignment]  # for good
            DBOS(config=self._config())
            self._work = DBOS.workflow(name="atelier_job", max_recovery_attempts=None)(work)
            DBOS.launch()
            DBOS.register_queue(
                QUEUE,
                worker_concurrency=self._running,
                polling_interval_sec=self._poll_seconds,
                on_conflict="always_update",
            )

        try:
            await self._run(launch)
        except (SQLAlchemyError, DBOSException) as error:
            await self._run(lambda: DBOS.destroy(destroy_registry=True))
            raise Unavailable("the queue of jobs cannot be opened", retry_after=1.0) from error

    async def close(self) -> None:
        """Take no more, and let DBOS's threads go."""
        await self._run(lambda: DBOS.destroy(destroy_registry=True))
        self._threads.shutdown(wait=False)

    async def enqueue(self, job_id: str, dispatch: int, *, priority: int, turn: int) -> None:
        """Give a job its place; a place that it has already stays what it is.

        Args:
            job_id: of the job.
            dispatch: how often it has been given a place.
            priority: 0 to 9; the highest goes first.
            turn: among jobs of one priority; the lowest goes first.
        """
        rank = (_HIGHEST_PRIORITY - priority) * _MOST_TURNS + min(turn, _MOST_TURNS - 1)

        def put() -> None:
            if self._work is None:
                raise RuntimeError("jobs are dispatched before the queue is open; this is a bug")
            with (
                SetWorkflowID(_place(job_id, dispatch)),
                SetEnqueueOptions(priority=1 + rank),
            ):
                DBOS.enqueue_workflow(QUEUE, self._work, job_id, dispatch)

        await self._run(put)

    async def lost(self, dispatches: Mapping[str, int], alive: Collection[str]) -> set[str]:
        """Which of some jobs, that nobody works on, nobody will be handed any more.

        Args:
            dispatches: by job, the number of its dispatch.
            alive: the replicas that there are.
        """
        places = {_place(*pair): pair[0] for pair in dispatches.items()}

        def look() -> set[str]:
            found = DBOS.list_workflows(
                workflow_ids=list(places), load_input=False, load_output=False
            )
            coming = {
                places[state.workflow_id]
                for state in found
                if state.status in _WAITING
                or (state.status == "PENDING" and state.executor_id in alive)
            }
            return set(dispatches) - coming

        return await self._run(look) if places else set()

    async def clean(self, alive: Collection[str], *, older: float) -> None:
        """Remove places that are of no more use: DBOS keeps them for ever.

        Args:
            alive: the replicas that there are; what others took is handed out anew.
            older: seconds that a place must have been done with.
        """
        until = (datetime.now(UTC) - timedelta(seconds=older)).isoformat()
        which: WorkflowFilter = {"queue_name": QUEUE, "load_input": False, "load_output": False}

        def remove() -> None:
            done = DBOS.list_workflows(
                **which, status=_DONE, completed_before=until, limit=_AT_ONCE
            )
            taken = DBOS.list_workflows(**which, status="PENDING", dequeued_before=until)
            gone = [state.workflow_id for state in taken if state.executor_id not in alive]
            if done or gone:
                DBOS.delete_workflows([*(state.workflow_id for state in done), *gone])

        await self._run(remove)

    def _config(self) -> DBOSConfig:
        return {
            "name": APPLICATION,
            "system_database_url": self._database.url,
            "application_version": VERSION,
            "executor_id": self._replica,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "enable_otlp": False,
            "sys_db_pool_size": 4,
            # Nothing of ours listens; without it a pooled connection is as good as a direct one.
            "use_listen_notify": False,
        }

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _refuse_pickle(*_: object) -> NoReturn:
    raise DBOSException("a row of the queue holds a pickle, which is never loaded")


def _place(job_id: str, dispatch: int) -> str:
    return f"{job_id}.{dispatch}"
