"""On a disk without a byte left jobs are refused or wait, and none that was accepted is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from services.core.errors import Unavailable
from services.jobs.durable import DurableJobs
from services.jobs.words import JobQuery, JobRecord, JobStatus
from tests import slow_jobs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]
PATIENCE = 240.0
FULL_SECONDS = 1.5


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607 - the system's


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb") as file:
        while True:
            file.write(b"\0" * 4096)
            file.flush()


async def listed(jobs: DurableJobs) -> list[JobRecord]:
    return list((await jobs.list(slow_jobs.OWNER, JobQuery(limit=100))).jobs)


async def test_no_accepted_job_is_lost_on_a_full_disk(disk: Path) -> None:
    engines = slow_jobs.backend()
    jobs = slow_jobs.jobs_over(engines, disk, slow_jobs.settings())
    await jobs.open()
    accepted = {(await slow_jobs.accepted(jobs, seed))[0] for seed in (0, 10)}
    await asyncio.to_thread(fill, disk / "filler")
    waiting, refusals = {100, 110}, set()
    full_until, end = time.monotonic() + FULL_SECONDS, time.monotonic() + PATIENCE
    records: list[JobRecord] = []
    while waiting or not records or not all(record.status.final for record in records):
        for seed in sorted(waiting):
            job_id, error = await slow_jobs.accepted(jobs, seed)
            if job_id is None:
                refusals.add(error)
            else:
                accepted.add(job_id)
                waiting.discard(seed)
        if time.monotonic() > full_until:
            (disk / "filler").unlink(missing_ok=True)
        with suppress(Unavailable):
            records = await listed(jobs)
        assert time.monotonic() < end, ([record.status for record in records], waiting)
        await asyncio.sleep(0.2)
    assert {record.id for record in records} == accepted
    assert {record.status for record in records} == {JobStatus.SUCCEEDED}
    assert refusals <= {"unavailable", "idempotency_key_in_flight"}
    await jobs.close()
    engines.close()
    assert not list(disk.rglob("*.part"))
