"""Bulk jobs over real engines: a dataset, the same every time, and nothing of it made twice."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from services.core.errors import EngineFailure, QueueFull
from services.core.job import Answer, Call, Task
from services.families import discover
from services.jobs.bulk import BULK, BulkRunner
from services.jobs.bulk_plan import BulkPlan, BulkRequest, samples_asked_for
from services.jobs.durable import DurableJobs
from services.jobs.settings import JobSettings
from services.jobs.words import JobRecord, JobRequest, JobStatus
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each

OWNER, MODEL, PATIENCE = "shop", "tiny-flow", 60.0
SETTINGS = JobSettings(poll_seconds=0.02, sweep_seconds=0.1, lease_seconds=1.0)
TEN = {"model": MODEL, "grid": {"temperature": [0.5, 1.0]}, "n": 5, "seed": 7, "shard_size": 4}


@pytest.fixture(scope="module")
def engines() -> Iterator[InProcessBackend]:
    found = InProcessBackend(one_of_each(), discover())
    yield found
    found.close()


class Watched:
    """A backend that remembers its calls, and does to some of them what a test wants."""

    def __init__(self, backend: InProcessBackend) -> None:
        self._backend = backend
        self.seeds: list[tuple[float, int]] = []
        self.errors: dict[int, list[Exception]] = {}
        self.stops_at: int | None = None
        self.stopped = asyncio.Event()

    async def run(self, call: Call) -> Answer:
        seed = call.parameters["seed"]
        if self.errors.get(seed):
            raise self.errors[seed].pop(0)
        if self.stops_at is not None and len(self.seeds) >= self.stops_at:
            self.stopped.set()
            await asyncio.Event().wait()
        self.seeds.append((call.parameters.get("temperature", 1.0), seed))
        return await self._backend.run(call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@pytest.fixture
def backend(engines: InProcessBackend) -> Watched:
    return Watched(engines)


@asynccontextmanager
async def opened(backend: Watched, folder: Path, *, in_flight: int = 3) -> AsyncIterator[Any]:
    runner = BulkRunner(backend, in_flight=in_flight)  # type: ignore[arg-type]  # a double
    jobs = DurableJobs(SETTINGS, {BULK: runner}, folder=folder)
    await jobs.open()
    yield jobs
    await jobs.close()


async def submitted(jobs: DurableJobs, body: Mapping[str, Any]) -> JobRecord:
    rows = samples_asked_for(BulkRequest.model_validate(body))
    request = JobRequest(OWNER, BULK, body["model"], body, rows=rows)
    return (await jobs.submit(request)).record


async def ended(jobs: DurableJobs, job_id: str) -> JobRecord:
    async with asyncio.timeout(PATIENCE):
        async for record in jobs.events(OWNER, job_id):
            last = record
    return last


async def files_of(jobs: DurableJobs, record: JobRecord) -> list[bytes]:
    return [(await jobs.artefact(OWNER, record.id, i))[1] for i in range(len(record.artefacts))]


def samples_in(shard: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


async def make(backend: Watched, folder: Path, body: Mapping[str, Any]) -> Any:
    async with opened(backend, folder) as jobs:
        record = await ended(jobs, (await submitted(jobs, body)).id)
        return record, await files_of(jobs, record)


async def test_a_grid_becomes_a_labelled_dataset(
    backend: Watched, engines: InProcessBackend, tmp_path: Path
) -> None:
    record, files = await make(backend, tmp_path, TEN)
    assert (record.status, record.rows_done, record.progress) == (JobStatus.SUCCEEDED, 10, 1.0)
    told = [(i.values["kind"], i.values["samples"], i.artefact) for i in record.items]
    assert told == [("shard", 4, 0), ("shard", 4, 1), ("shard", 2, 2), ("index", 10, 3)]
    for item in record.items:
        content = files[item.artefact]
        assert item.values["sha256"] == hashlib.sha256(content).hexdigest()
        assert item.values["bytes"] == len(content)
    names = [name for shard in files[:3] for name in samples_in(shard)]
    assert names == [f"{i:09d}.{end}" for i in range(10) for end in ("png", "json")]
    everything = {name: data for shard in files[:3] for name, data in samples_in(shard).items()}
    about = json.loads(everything["000000006.json"])
    assert (about["seed"], about["temperature"], about["model"]) == (8, 1.0, MODEL)
    alone = await engines.run(
        Call("x", MODEL, Task.GENERATE, parameters={"seed": 8, "temperature": 1.0})
    )
    assert pixels(everything["000000006.png"]) == pixels(alone.items[0].image or b"")
    lines = [json.loads(line) for line in files[3].decode().splitlines()]
    assert [line["key"] for line in lines] == [f"{i:09d}" for i in range(10)]
    assert {line["status"] for line in lines} == {"succeeded"}
    assert [line["shard"] for line in lines[3:5]] == [0, 1]
    assert record.device_seconds > 0


def pixels(image: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(image))).tobytes()


async def test_the_same_request_gives_the_same_bytes(backend: Watched, tmp_path: Path) -> None:
    one, first = await make(backend, tmp_path / "a", TEN)
    backend.errors = {9: [QueueFull("full", retry_after=0.01)] * 2}  # which only takes time
    two, second = await make(backend, tmp_path / "b", TEN)
    assert one.id != two.id
    assert first == second


async def test_what_was_finished_before_the_end_of_a_process_is_not_made_again(
    backend: Watched, tmp_path: Path
) -> None:
    _, expected = await make(backend, tmp_path / "whole", TEN)
    backend.seeds.clear()
    backend.stops_at = 6  # in the middle of the second shard
    async with opened(backend, tmp_path / "broken") as jobs:
        job = await submitted(jobs, TEN)
        await asyncio.wait_for(backend.stopped.wait(), PATIENCE)
        before = backend.seeds[:4]
    backend.stops_at = None
    async with opened(backend, tmp_path / "broken") as jobs:
        record = await ended(jobs, job.id)
        files = await files_of(jobs, record)
    assert record.status is JobStatus.SUCCEEDED
    assert files == expected
    assert all(backend.seeds.count(seed) == 1 for seed in before)
    assert record.rows_done == 10


async def test_a_sample_that_fails_is_named_and_costs_no_other(
    backend: Watched, tmp_path: Path
) -> None:
    backend.errors = {8: [EngineFailure("no number")] * 2}
    record, files = await make(backend, tmp_path, TEN)
    assert record.status is JobStatus.SUCCEEDED
    assert [item.values["failed"] for item in record.items] == [1, 1, 0, 2]
    lines = [json.loads(line) for line in files[3].decode().splitlines()]
    failed = [line for line in lines if line["status"] == "failed"]
    assert [line["key"] for line in failed] == ["000000001", "000000006"]
    assert failed[0]["error"] == {"code": "engine_failure", "message": "no number"}
    assert "000000001.png" not in samples_in(files[0])
    assert len(samples_in(files[0])) == 6


async def test_a_job_of_which_nothing_could_be_made_has_failed(
    backend: Watched, tmp_path: Path
) -> None:
    body = {"model": MODEL, "requests": [{"seed": 1}, {"seed": 2}], "shard_size": 1}
    backend.errors = {1: [EngineFailure("first")], 2: [EngineFailure("second")]}
    record, _ = await make(backend, tmp_path, body)
    assert record.status is JobStatus.FAILED
    assert record.error is not None
    assert record.error["message"] == "first"


async def test_canceling_stops_it_where_it_is(backend: Watched, tmp_path: Path) -> None:
    backend.stops_at = 5
    async with opened(backend, tmp_path) as jobs:
        job = await submitted(jobs, TEN)
        await asyncio.wait_for(backend.stopped.wait(), PATIENCE)
        record = await jobs.cancel(OWNER, job.id)
    assert record.status is JobStatus.CANCELED
    assert len(backend.seeds) == 5


def plan(**asked: Any) -> BulkPlan:
    return BulkPlan(BulkRequest.model_validate({"model": MODEL, **asked}))


def test_a_list_names_its_own_samples() -> None:
    found = plan(
        common={"steps": 4, "prompt": "a"},
        requests=[{"prompt": "b", "n": 2, "seed": 50}, {}, {"steps": 9}],
        seed=10,
    )
    assert [sample.fields for sample in found] == [
        {"steps": 4, "prompt": "b", "seed": 50},
        {"steps": 4, "prompt": "b", "seed": 51},
        {"steps": 4, "prompt": "a", "seed": 12},
        {"steps": 9, "prompt": "a", "seed": 13},
    ]


def test_a_grid_is_every_combination_and_its_last_field_changes_fastest() -> None:
    found = plan(grid={"prompt": ["a", "b"], "seed": [5, 9]}, n=2)
    told = [(sample.fields["prompt"], sample.fields["seed"]) for sample in found]
    assert told == [(p, s) for p in "ab" for s in (5, 6, 9, 10)]
    assert len(found) == samples_asked_for(
        BulkRequest(model=MODEL, grid={"prompt": ["a", "b"], "seed": [5, 9]}, n=2)
    )
    assert len(plan(n=3)) == 3


def test_shards_of_large_images_have_fewer_of_them() -> None:
    found = plan(n=10, shard_size=4)
    assert found.shards(48) == [range(4), range(4, 8), range(8, 10)]
    assert [len(shard) for shard in found.shards(32 << 20)] == [2] * 5
    assert [len(shard) for shard in found.shards(1 << 40)] == [1] * 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid": {"label": [1]}, "requests": [{}]},
        {"requests": []},
        {"requests": [{}], "n": 2},
        {"n": 0},
        {"grid": {"label": []}},
        {"shard_size": 0},
        {"output_format": "tiff"},
        {"unknown": 1},
        {"seed": -1},
    ],
)
def test_a_request_that_means_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BulkRequest.model_validate({"model": MODEL, **wrong})


@pytest.mark.parametrize("n", [0, -1, "many", True, 1.5])
def test_a_count_of_a_list_that_is_none(n: Any) -> None:
    with pytest.raises(ValueError, match="'n'"):
        plan(requests=[{"n": n}])
