"""What was accepted as a job survives the death of any process, and yields exactly one result."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.jobs.artefacts import ArtefactStore
from services.jobs.database import Database
from services.jobs.store import JobStore
from services.jobs.words import JobQuery, JobRecord, JobStatus, digest_of
from tests import slow_jobs
from tests.postgres import Postgres, binaries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

KILLS = int(os.environ.get("ATELIER_TEST_KILLS", "12"))
"""Of replicas; the full run has 100."""
SEED = int(os.environ.get("ATELIER_TEST_SEED", "20261121"))
PATIENCE = 120.0
ASK_AGAIN = 20.0
LONGEST_LIFE = 2.5
"""Seconds after which a replica is killed at the latest: while it starts, or while it works."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.slow_jobs"])


class Replica:
    """A process that accepts and works on jobs."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.connection, other = processes.Pipe()
        self.process = processes.Process(
            target=slow_jobs.replica, args=(other, folder, url), daemon=True
        )
        self.process.start()
        self.is_open = False
        other.close()

    def send(self, seed: int) -> None:
        try:
            self.connection.send(seed)
        except OSError:
            return  # it is dead, and will not answer

    def heard(self) -> Iterator[Any]:
        """What it has said so far."""
        try:
            while self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):
            return

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid or 0, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def stop(self) -> None:
        """Let it end as it would at the end of a service."""
        self.connection.close()
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0


class Client:
    """Submits jobs and asks again until it knows that they were accepted, as clients should."""

    def __init__(self) -> None:
        self.unsure: set[int] = set()
        self.accepted: dict[int, str] = {}

    def submit(self, replica: Replica, seed: int) -> None:
        self.unsure.add(seed)
        replica.send(seed)

    def listen(self, replica: Replica) -> bool:
        """Whether the replica has been heard of at all."""
        for said in replica.heard():
            replica.is_open = True
            if said == "open" or said[1] is None:
                continue
            seed, job_id, _ = said
            # Whichever replica answered, and however often: one job.
            assert self.accepted.setdefault(seed, job_id) == job_id
            self.unsure.discard(seed)
        return replica.is_open


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if binaries() is None:
        pytest.skip("no PostgreSQL is installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def images() -> Iterator[Callable[[int], list[str]]]:
    """The digests of the images that a request with a seed gives, without any job."""
    engines = slow_jobs.backend()

    def of(seed: int) -> list[str]:
        answer = asyncio.run(engines.run(slow_jobs.call(seed)))
        return [digest_of(item.image or b"") for item in answer.items]

    yield of
    engines.close()


def look(url: str) -> list[JobRecord]:
    """Every job that there is."""

    async def read() -> list[JobRecord]:
        database = Database(url)
        await database.open()
        store = JobStore(database, slow_jobs.settings(url))
        page = await store.list(slow_jobs.OWNER, JobQuery(limit=10_000))
        await database.close()
        return list(page.jobs)

    return asyncio.run(read())


def settled(url: str, client: Client, replicas: list[Replica]) -> list[JobRecord]:
    """Every job, once all are done."""
    end, ask = time.monotonic() + 3 * PATIENCE, 0.0
    while True:
        for replica in replicas:
            client.listen(replica)
        if time.monotonic() > ask:  # a key whose request died is in flight for a minute
            ask = time.monotonic() + ASK_AGAIN
            for seed in list(client.unsure):
                client.submit(replicas[seed // 10 % len(replicas)], seed)
        records = [] if client.unsure else look(url)
        if records and all(record.status.final for record in records):
            return records
        assert time.monotonic() < end, (client.unsure, [r.status for r in records])
        time.sleep(0.5)


def check(
    folder: Path, client: Client, records: list[JobRecord], images: Callable[[int], list[str]]
) -> None:
    """Exactly one job per request, one result per job, and no file that is nobody's."""
    assert {record.id for record in records} == set(client.accepted.values())
    assert len(records) == len(client.accepted)
    assert {record.status for record in records} == {JobStatus.SUCCEEDED}
    by_id = {record.id: record for record in records}
    for seed, job_id in client.accepted.items():
        record = by_id[job_id]
        assert [artefact.sha256 for artefact in record.artefacts] == images(seed)
        assert [item.values["seed"] for item in record.items] == [seed, seed + 1]
    expected = {
        f"{record.id}/{artefact.name}": artefact.sha256
        for record in records
        for artefact in record.artefacts
    }
    root = folder / "jobs"
    end = time.monotonic() + PATIENCE
    while True:  # until the sweeps of those that are alive have come round
        found = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
        if found.keys() == expected.keys():
            break
        assert time.monotonic() < end, found.keys() ^ expected.keys()
        time.sleep(0.5)
    assert {name: digest_of(path.read_bytes()) for name, path in found.items()} == expected


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_no_accepted_job_is_lost_and_none_is_done_twice(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, images: Callable[[int], list[str]]
) -> None:
    server: Postgres | None = None
    if kind == "postgres":
        server = request.getfixturevalue("postgres")
    url = None if server is None else server.make("killed")
    chance, client = random.Random(SEED), Client()
    replicas = [Replica(tmp_path, url) for _ in range(2)]
    seeds = iter(range(0, 10**6, 10))
    for number in range(KILLS):
        for replica in (*replicas, *replicas):
            client.submit(replica, next(seeds))
        victim = chance.randrange(len(replicas))
        if number % 3:  # while it works; else at any moment, most likely while it starts
            until(partial(client.listen, replicas[victim]))
        time.sleep(chance.uniform(0.0, LONGEST_LIFE))
        for replica in replicas:
            client.listen(replica)
        if server is not None and number % 4 == 1:
            server.terminate_connections()
        if server is not None and number % 6 == 3:
            server.stop("immediate")
            time.sleep(chance.uniform(0.0, 0.5))
            server.start()
        replicas[victim].kill()
        replicas[victim] = Replica(tmp_path, url)
    records = settled(url or f"sqlite:///{tmp_path / 'jobs.sqlite'}", client, replicas)
    check(tmp_path, client, records, images)
    attempts = [record.attempts for record in records]
    print(f"{kind}: {KILLS} kills, {len(records)} jobs, attempts up to {max(attempts)}")
    assert max(attempts) > 1, "no kill hit a job under way; the test proved nothing"
    for replica in replicas:
        replica.stop()


def test_a_replica_that_slept_finds_its_job_done_by_another(
    tmp_path: Path, postgres: Postgres, images: Callable[[int], list[str]]
) -> None:
    """Not dead, only stopped: the lease runs out, and what it does later counts for nothing.

    On PostgreSQL: whoever is stopped in the middle of writing to SQLite stops everybody.
    """
    url, client = postgres.make("slept"), Client()
    sleeper = Replica(tmp_path, url)
    until(lambda: client.listen(sleeper))
    client.submit(sleeper, 0)
    until(lambda: [r.status for r in look(url)] == [JobStatus.RUNNING])
    sleeper.signal(signal.SIGSTOP)
    other = Replica(tmp_path, url)
    until(lambda: look(url)[0].status is JobStatus.SUCCEEDED)
    before = look(url)[0]
    assert before.attempts == 2
    sleeper.signal(signal.SIGCONT)
    until(lambda: client.listen(sleeper) and not client.unsure)
    client.submit(sleeper, 10)  # and it is of use again
    records = settled(url, client, [sleeper, other])
    assert before in records
    check(tmp_path, client, records, images)
    for replica in (sleeper, other):
        replica.stop()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_was_uploaded_for_a_job_that_was_never_accepted_is_removed(tmp_path: Path) -> None:
    async def leave() -> None:
        files = ArtefactStore(str(tmp_path / "jobs"))
        await files.open()
        await files.put("job-" + "0" * 32, "input-x", b"left by whoever died while accepting")
        files.close()

    asyncio.run(leave())
    (tmp_path / "jobs" / "not-ours").mkdir()
    replica = Replica(tmp_path, None)
    until(lambda: not (tmp_path / "jobs" / ("job-" + "0" * 32)).exists())
    assert (tmp_path / "jobs" / "not-ours").exists()
    replica.stop()
