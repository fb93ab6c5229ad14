"""One replica at work with its real queue, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOSPortableJSONSerializer
from dbos._error import DBOSException
from dbos._serialization import DBOSDefaultSerializer, deserialize_value

from services.core.errors import InvalidParameter, JobNotFound, QueueFull, Unavailable
from services.jobs.database import Database
from services.jobs.durable import DurableJobs
from services.jobs.interface import Work
from services.jobs.store import JobStore, new_job_id
from services.jobs.tables import jobs
from services.jobs.words import JobChange, JobRecord, JobStatus, Outcome, ResultItem
from tests.job_requests import OWNER, chosen, request, until
from tests.postgres import Postgres


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._canary,)


class ScriptedRunner:
    """Does what the job's body says."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self.go = asyncio.Event()

    async def run(self, work: Work) -> Outcome:
        self.runs.append((work.record.id, work.record.attempts))
        tries = [job_id for job_id, _ in self.runs].count(work.record.id)
        match work.body["do"]:
            case "refuse twice" if tries <= 2:
                raise QueueFull("no room", retry_after=0.01)
            case "cancel itself" if tries == 1:
                raise asyncio.CancelledError
            case "fail":
                raise InvalidParameter("no such thing", param="thing")
            case "break":
                raise RuntimeError("a secret of the implementation")
            case "wait":
                await work.save({"tries": tries})
                await self.go.wait()
        saved = await work.checkpoint()
        await work.put(0, b"made", "image/png")
        return Outcome((ResultItem({"saved": saved}, 0),))


class Replica:
    """Real jobs over the scripted runner."""

    def __init__(self, url: str, folder: Path, **more: Any) -> None:
        self.runner = ScriptedRunner()
        settings = chosen(database_url=url, **more)
        self.jobs = DurableJobs(settings, {"generate": self.runner}, folder=folder)

    async def submit(self, do: str, **more: Any) -> str:
        return (await self.jobs.submit(request(body={"do": do}, **more))).record.id

    async def ended(self, job_id: str) -> JobRecord:
        async def look() -> JobRecord | None:
            record = await self.jobs.get(OWNER, job_id)
            return record if record.status.final else None

        found: JobRecord = await until(look)
        return found


@pytest.fixture
async def replica(url: str, tmp_path: Path) -> AsyncIterator[Replica]:
    opened = Replica(url, tmp_path)
    await opened.jobs.open()
    yield opened
    await opened.jobs.close()


async def test_every_way_in_which_a_job_can_end(replica: Replica) -> None:
    ways = {
        "just do it": JobStatus.SUCCEEDED,
        "refuse twice": JobStatus.SUCCEEDED,
        "cancel itself": JobStatus.SUCCEEDED,
        "fail": JobStatus.FAILED,
        "break": JobStatus.FAILED,
    }
    ids = {do: await replica.submit(do) for do in ways}
    ends = {do: await replica.ended(job_id) for do, job_id in ids.items()}
    assert {do: end.status for do, end in ends.items()} == ways
    assert ends["fail"].failure is not None
    assert ends["fail"].failure.to_json() == {
        "code": "invalid_parameter",
        "message": "no such thing",
        "param": "thing",
        "retry_after": None,
    }
    assert "secret" not in str(ends["break"].failure)
    assert {end.attempts for end in ends.values()} == {1}


async def test_owners_take_turns_and_priorities_go_first(
    url: str, tmp_path: Path, database: Database
) -> None:
    opened = Replica(url, tmp_path, running_per_replica=1)
    await opened.jobs.open()
    await opened.submit("wait")

    async def begun() -> bool:
        return bool(opened.runner.runs)

    await until(begun)
    many = [await opened.submit("just do it", owner="flood") for _ in range(4)]
    late = await opened.submit("just do it", owner="modest")
    urgent = await opened.submit("just do it", owner="flood", priority=9)
    unplaced = sa.select(sa.func.count()).where(jobs.c.dispatched == 0.0)

    async def placed() -> bool:
        return await database.read(lambda c: c.execute(unplaced).scalar()) == 0

    await until(placed)
    opened.runner.go.set()

    async def done() -> bool:
        return len(opened.runner.runs) == 7

    await until(done)
    await opened.jobs.close()
    order = [job_id for job_id, _ in opened.runner.runs][1:]
    assert order == [urgent, many[0], late, *many[1:]]


async def test_what_was_accepted_without_a_place_in_the_queue_is_found(
    replica: Replica, database: Database
) -> None:
    """Its replica died after it had accepted: before the place was asked for, or after."""
    store = JobStore(database, chosen())
    body = {"do": "just do it"}
    never = await store.insert(new_job_id(), request(body=body), None)
    lost = await store.insert(new_job_id(), request(body=body), None)
    placed = jobs.update().where(jobs.c.id == lost.id).values(dispatched=time.time() - 100)
    await database.write(lambda c: c.execute(placed))
    for record in (never, lost):
        assert (await replica.ended(record.id)).status is JobStatus.SUCCEEDED
    assert len(replica.runner.runs) == 2


async def test_listeners_are_told_of_each_state_until_they_have_listened(
    url: str, tmp_path: Path
) -> None:
    opened, told = Replica(url, tmp_path), list[tuple[str, str]]()

    async def listener(change: JobChange) -> None:
        told.append((change.id, change.record.status))
        if change.record.status is JobStatus.SUCCEEDED and len(told) < 4:
            raise RuntimeError("not now")

    opened.jobs.subscribe(listener)
    await opened.jobs.open()
    job_id = await opened.submit("just do it")

    async def enough() -> bool:
        return len(told) >= 4

    await until(enough)
    await opened.jobs.close()
    assert {status for _, status in told} == {"queued", "running", "succeeded"}
    ends = [change for change, status in told if status == "succeeded"]
    assert len(ends) == 2
    assert len(set(ends)) == 1
    assert ends[0].startswith(job_id)


async def test_what_a_closing_replica_leaves_the_next_one_does(url: str, tmp_path: Path) -> None:
    first = Replica(url, tmp_path)
    await first.jobs.open()
    job_id = await first.submit("wait")

    async def begun() -> bool:
        return bool(first.runner.runs)

    await until(begun)
    await first.jobs.close()
    second = Replica(url, tmp_path)
    second.runner.go.set()
    await second.jobs.open()
    record = await second.ended(job_id)
    await second.jobs.close()
    assert record.status is JobStatus.SUCCEEDED
    assert record.items[0].values == {"saved": {"tries": 1}}


@pytest.mark.usefixtures("replica")
async def test_dbos_loads_no_pickle_whatever_a_row_says(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hostile = DBOSDefaultSerializer.serialize(Hostile(canary))
    with pytest.raises(DBOSException, match="pickle"):
        deserialize_value(hostile, DBOSDefaultSerializer.name(), DBOSPortableJSONSerializer())
    assert not canary.exists()


async def test_canceling_and_deadlines_end_the_work(replica: Replica) -> None:
    canceled = await replica.submit("wait")
    late = await replica.submit("wait", deadline_seconds=0.5)
    waiting = [await replica.submit("wait", deadline_seconds=0.6) for _ in range(3)]
    assert (await replica.jobs.cancel(OWNER, canceled)).status is JobStatus.CANCELED
    with pytest.raises(JobNotFound):
        await replica.jobs.cancel("other", canceled)
    for job_id in (late, *waiting):
        assert (await replica.ended(job_id)).failure is not None
    counts = await replica.jobs.counts()
    assert counts[JobStatus.FAILED] == 4
    assert counts[JobStatus.CANCELED] == 1


async def test_a_job_and_its_files_go_when_its_time_has_come(url: str, tmp_path: Path) -> None:
    opened = Replica(url, tmp_path)
    await opened.jobs.open()
    job_id = await opened.submit("just do it", ttl_seconds=1.0)

    async def gone() -> bool:
        try:
            await opened.jobs.get(OWNER, job_id)
        except JobNotFound:
            return not (tmp_path / "jobs" / job_id).exists()
        return False

    await until(gone)
    await opened.jobs.close()


async def test_a_database_that_comes_late_is_waited_for(tmp_path: Path, postgres: Postgres) -> None:
    opened = Replica(postgres.url("late"), tmp_path)
    await opened.jobs.open()
    with pytest.raises(Unavailable):
        await opened.submit("just do it")
    await asyncio.to_thread(postgres.make, "late")
    job_id = await patiently(lambda: opened.submit("just do it"))
    assert (await opened.ended(job_id)).status is JobStatus.SUCCEEDED
    await opened.jobs.close()


async def test_a_lost_connection_costs_nobody_a_job(
    replica: Replica, request: pytest.FixtureRequest
) -> None:
    if "postgres" not in request.node.name:
        pytest.skip("SQLite has no connections to lose")
    server: Postgres = request.getfixturevalue("postgres")
    ids = []
    for _ in range(4):
        ids.append(await patiently(lambda: replica.submit("just do it")))
        await asyncio.to_thread(server.terminate_connections)
    for job_id in ids:
        record = await patiently(lambda job_id=job_id: replica.ended(job_id))  # type: ignore[misc]
        assert record.status is JobStatus.SUCCEEDED


async def patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask again for as long as the database cannot be reached, as clients do."""

    async def once() -> Any:
        try:
            return await ask()
        except Unavailable:
            return None

    return await until(once)
