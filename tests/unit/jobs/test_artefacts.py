"""The files of jobs in a folder."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from services.core.errors import JobNotFound, Unavailable
from services.jobs.artefacts import ArtefactStore, artefact_name

JOB = "job-" + "0" * 32


@pytest.fixture
async def store(tmp_path: Path) -> ArtefactStore:
    opened = ArtefactStore(str(tmp_path / "jobs"))
    await opened.open()
    return opened


async def test_a_file_takes_the_place_of_one_of_its_name(
    store: ArtefactStore, tmp_path: Path
) -> None:
    await store.put(JOB, "000000-1.png", b"first")
    await store.put(JOB, "000000-1.png", b"second")
    assert await store.get(JOB, "000000-1.png") == b"second"
    assert [p.name for p in (tmp_path / "jobs" / JOB).iterdir()] == ["000000-1.png"]


async def test_what_is_not_kept_is_removed_even_what_was_never_finished(
    store: ArtefactStore, tmp_path: Path
) -> None:
    for name in ("000000-1.png", "000000-2.png", "input-a", "000001-1.png.0abc.part"):
        await store.put(JOB, name, b"x")
    await store.keep_only(JOB, {"000000-2.png"})
    assert [p.name for p in (tmp_path / "jobs" / JOB).iterdir()] == ["000000-2.png"]
    with pytest.raises(JobNotFound):
        await store.get(JOB, "000000-1.png")
    await store.keep_only(JOB, ())
    assert not (tmp_path / "jobs" / JOB).exists()
    await store.keep_only(JOB, ())


async def test_only_folders_of_jobs_are_listed(store: ArtefactStore, tmp_path: Path) -> None:
    await store.put(JOB, "000000-1.png", b"x")
    os.utime(tmp_path / "jobs" / JOB / "000000-1.png", (1000, 1000))
    (tmp_path / "jobs" / "holiday-photos").mkdir()
    (tmp_path / "jobs" / "job-file").write_text("x")
    assert await store.folders() == {JOB: 1000.0}


async def test_the_folder_is_its_owners_alone(store: ArtefactStore, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700


async def test_a_disk_that_takes_nothing_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file where the folder should be")
    with pytest.raises(Unavailable):
        await ArtefactStore(str(tmp_path / "jobs")).put(JOB, "a", b"x")


async def test_what_did_not_fit_takes_no_room(store: ArtefactStore, tmp_path: Path) -> None:
    await store.put(JOB, "000000-1.png", b"small")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the system says: file too large
    try:
        with pytest.raises(Unavailable):
            await store.put(JOB, "000001-1.png", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (tmp_path / "jobs" / JOB).iterdir()] == ["000000-1.png"]


def test_no_two_attempts_share_a_name() -> None:
    names = {artefact_name(i, a, "image/png") for i in range(3) for a in range(3)}
    assert len(names) == 9
    assert artefact_name(7, 1, "image/webp") == "000007-1.webp"
