"""What jobs promise of their transactions, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa

from services.core.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidParameter,
    QueueFull,
    StorageQuotaExceeded,
)
from services.jobs.database import Database
from services.jobs.lifecycle import Ending, Lifecycle
from services.jobs.store import JobStore, new_job_id
from services.jobs.tables import changes, jobs, keys
from services.jobs.words import JobQuery, JobRecord, JobStatus, digest_of
from tests.job_requests import OWNER, chosen, request


async def test_of_many_requests_with_one_key_one_is_accepted(database: Database) -> None:
    store = JobStore(database, chosen())
    took = await asyncio.gather(
        *(store.take_key(OWNER, "key", "f") for _ in range(8)), return_exceptions=True
    )
    assert took.count(None) == 1
    assert sum(isinstance(one, IdempotencyKeyInFlight) for one in took) == 7
    record = await store.insert(new_job_id(), request(), "key")
    assert await store.take_key(OWNER, "key", "f") == record.id
    assert await store.take_key("other", "key", "g") is None
    with pytest.raises(IdempotencyKeyReused):
        await store.take_key(OWNER, "key", "g")


async def test_a_key_is_free_again_when_its_request_was_refused_or_died(database: Database) -> None:
    store = JobStore(database, chosen())
    assert await store.take_key(OWNER, "key", "f") is None
    await store.free_key(OWNER, "key")
    assert await store.take_key(OWNER, "key", "g") is None
    old = keys.update().values(created=time.time() - 61)
    await database.write(lambda c: c.execute(old))
    assert await store.take_key(OWNER, "key", "h") is None


async def test_a_key_is_forgotten_after_its_time(database: Database) -> None:
    store = JobStore(database, chosen(idempotency_seconds=100))
    assert await store.take_key(OWNER, "key", "f") is None
    await store.insert(new_job_id(), request(), "key")
    old = keys.update().values(created=time.time() - 101)
    await database.write(lambda c: c.execute(old))
    assert await store.take_key(OWNER, "key", "g") is None


async def test_no_two_requests_take_the_same_room(database: Database) -> None:
    store = JobStore(database, chosen(owner_bytes=10_000, total_bytes=25_000))

    async def accept(owner: str) -> JobRecord | BaseException:
        asked = request(owner=owner, files={digest_of(b""): b"x" * 1000}, reserve_bytes=2000)
        try:
            return await store.insert(new_job_id(), asked, None)
        except StorageQuotaExceeded as error:
            return error

    first = await asyncio.gather(*(accept("a") for _ in range(8)))
    assert sum(isinstance(one, JobRecord) for one in first) == 3
    others = await asyncio.gather(*(accept(owner) for owner in "bbbbcccc"))
    assert sum(isinstance(one, JobRecord) for one in others) == 5  # the whole is full
    assert "DELETE /v1/jobs" in str(next(o for o in others if not isinstance(o, JobRecord)))


async def test_the_queue_is_bounded(database: Database) -> None:
    store = JobStore(database, chosen(max_queued=3, max_queued_per_owner=2))
    for owner in "aab":
        await store.insert(new_job_id(), request(owner=owner), None)
    for owner in "ab":
        with pytest.raises(QueueFull) as full:
            await store.check_room(request(owner=owner))
        assert full.value.retry_after is not None


async def test_an_owner_sees_every_job_once_page_by_page(database: Database) -> None:
    store = JobStore(database, chosen())
    made = [(await store.insert(new_job_id(), request(), None)).id for _ in range(7)]
    await store.insert(new_job_id(), request(owner="other"), None)
    same = jobs.update().where(jobs.c.owner == OWNER).values(created=1000.0)
    await database.write(lambda c: c.execute(same))
    seen: list[str] = []
    cursor = None
    while True:
        page = await store.list(OWNER, JobQuery(limit=3, cursor=cursor))
        seen += [record.id for record in page.jobs]
        if page.cursor is None:
            break
        cursor = page.cursor
    assert seen == sorted(made, reverse=True)
    for wrong in ("", "%%%", "bm9uc2Vuc2U"):
        with pytest.raises(InvalidParameter):
            await store.list(OWNER, JobQuery(cursor=wrong))


async def test_of_many_replicas_one_takes_a_job_up_and_ends_it_once(database: Database) -> None:
    store = JobStore(database, chosen())
    record = await store.insert(new_job_id(), request(), None)
    replicas = [Lifecycle(database, chosen(), f"replica-{i}") for i in range(6)]
    claims = await asyncio.gather(*(one.claim(record.id, 1) for one in replicas))
    (winner,) = [i for i, claim in enumerate(claims) if claim is not None]
    claim = claims[winner]
    assert claim is not None
    ending = Ending(JobStatus.SUCCEEDED, '{"items":[]}')
    assert not await replicas[winner - 1].finish(claim, ending)
    assert await replicas[winner].finish(claim, ending)
    assert await replicas[winner].finish(claim, ending)  # as after a lost connection
    assert (await store.cancel(OWNER, record.id)).status is JobStatus.SUCCEEDED
    noted = sa.select(sa.func.count()).select_from(changes)
    assert await database.read(lambda c: c.execute(noted).scalar()) == 3


async def test_an_earlier_attempt_cannot_end_a_job_that_was_taken_from_it(
    database: Database,
) -> None:
    store, one = JobStore(database, chosen()), Lifecycle(database, chosen(), "one")
    record = await store.insert(new_job_id(), request(), None)
    asleep = await one.claim(record.id, 1)
    assert asleep is not None
    freed = jobs.update().values(holder=None, dispatch=2)
    await database.write(lambda c: c.execute(freed))
    assert await one.claim(record.id, 1) is None
    awake = await one.claim(record.id, 2)  # even by the same replica
    assert awake is not None
    assert not await one.finish(asleep, Ending(JobStatus.SUCCEEDED, "{}"))
    assert not await one.save(asleep, {"shard": 1})
    assert await one.attend({record.id: (asleep, 1, 0.5)}) == {record.id}
    assert (await store.get(OWNER, record.id)).progress == 0.0
    assert await one.finish(awake, Ending(JobStatus.SUCCEEDED, "{}"))


async def test_a_job_that_takes_its_process_with_it_is_given_up(database: Database) -> None:
    store, one = JobStore(database, chosen()), Lifecycle(database, chosen(), "one")
    record = await store.insert(new_job_id(), request(), None)
    died = jobs.update().values(attempts=5)
    await database.write(lambda c: c.execute(died))
    assert await one.claim(record.id, 1) is None
    failed = await store.get(OWNER, record.id)
    assert failed.status is JobStatus.FAILED
    assert "5 times" in str(failed.failure)
