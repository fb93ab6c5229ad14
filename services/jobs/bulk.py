"""Bulk jobs: thousands of images, shard by shard, into a dataset that training code reads.

A shard is a plain tar in the order of WebDataset (github.com/webdataset/webdataset): for each
sample ``KEY.png`` and ``KEY.json``. Nothing of it depends on when or in which order the samples
were made. A finished shard is written down before the next one begins: whatever dies, it is not
made again. A sample that fails is left out of its shard and named in the index.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from services.core.backend import Backend
from services.core.errors import (
    AtelierError,
    Canceled,
    EngineFailure,
    QueueFull,
    Unavailable,
    Withheld,
)
from services.core.errors import from_json as error_from_json
from services.core.job import Answer, Call, Encoding, Item, Task, Timings
from services.core.versions import split_version
from services.jobs.bulk_plan import BulkPlan, BulkRequest, Sample
from services.jobs.calls import JOB_SHARE
from services.jobs.interface import Work
from services.jobs.words import Artefact, Outcome, ResultItem

BULK = "bulk"
"""The kind of these jobs."""
SHARD_TYPE, INDEX_TYPE = "application/x-tar", "application/jsonl"
LONGEST_PAUSE = 5.0
MOST_ERROR_CHARS = 300

_LATER = (QueueFull, Unavailable, Canceled)
"""What a sample does not fail by: there is no room now, or a replica has gone."""
_NOT_THE_MODELS = frozenset({"size", "metadata"})
"""Fields that the gateway acts on, not the model."""
_SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one sample; ``error`` as `AtelierError.to_json` tells it."""

    sample: Sample
    item: Item | None = None
    error: Mapping[str, Any] | None = None
    timings: Timings = field(default_factory=Timings)
    device_seconds: float = 0.0


@dataclass(slots=True)
class Checkpoint:
    """What is finished: plain JSON between attempts.

    Attributes:
        shards: each with its artefact as ``file``, ``samples`` and ``failed``.
        errors: of each sample that failed, by its index as text.
        device_seconds: of all finished shards.
        timings: the slowest sample's, by stage.
    """

    shards: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    device_seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)

    def add(self, made: Sequence[Made], file: Artefact) -> None:
        """A shard is finished."""
        errors = {str(m.sample.index): dict(m.error) for m in made if m.error is not None}
        self.shards.append({"file": asdict(file), "samples": len(made), "failed": len(errors)})
        self.errors |= errors
        self.device_seconds += sum(m.device_seconds for m in made)
        for m in made:
            for stage, seconds in asdict(m.timings).items():
                self.timings[stage] = max(self.timings.get(stage, 0.0), seconds)


class BulkRunner:
    """Implements `services.jobs.interface.Runner`.

    Args:
        backend: makes the images.
        in_flight: samples of one job that are asked for at once.
    """

    def __init__(self, backend: Backend, *, in_flight: int = 16) -> None:
        self._backend, self._in_flight = backend, in_flight

    async def run(self, work: Work) -> Outcome:
        """See `Runner.run`.

        Raises:
            AtelierError: not one sample could be made: the first one's error.
        """
        asked = BulkRequest.model_validate(work.body)
        plan = await asyncio.to_thread(BulkPlan, asked)
        model = await self._backend.model(asked.model)
        height, width = model.resolution
        shards = plan.shards(height * width * model.channels)
        done = Checkpoint(**(await work.checkpoint() or {}))
        for shard in done.shards:
            work.adopt(Artefact(**shard["file"]))
        for number in range(len(done.shards), len(shards)):
            await self._make_shard(work, asked, plan, shards[number], number, done)
        if len(done.errors) == len(plan):
            raise error_from_json(done.errors["0"])
        index = await asyncio.to_thread(index_of, plan, shards, done)
        file = await work.put(len(shards), index, INDEX_TYPE)
        return Outcome(_items(shards, done, file), Timings(**done.timings), done.device_seconds)

    async def _make_shard(
        self,
        work: Work,
        asked: BulkRequest,
        plan: BulkPlan,
        shard: range,
        number: int,
        done: Checkpoint,
    ) -> None:
        waiting, made = iter(plan[shard.start : shard.stop]), list[Made]()

        async def keep_making() -> None:
            for sample in waiting:
                made.append(await self._make(work, asked, sample))
                finished = shard.start + len(made)
                work.report(rows_done=finished, progress=finished / len(plan))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._in_flight, len(shard))):
                group.create_task(keep_making())
        made.sort(key=lambda m: m.sample.index)
        content = await asyncio.to_thread(shard_of, made, asked)
        done.add(made, await work.put(number, content, SHARD_TYPE))
        await work.save(asdict(done))

    async def _make(self, work: Work, asked: BulkRequest, sample: Sample) -> Made:
        """Make one sample, however often there is no room for it."""
        pause = 0.1
        while True:
            try:
                answer = await self._backend.run(_call(work, asked, sample))
            except _LATER as error:
                pause = min(2 * pause, LONGEST_PAUSE)
                await asyncio.sleep(min(error.retry_after or pause, LONGEST_PAUSE))
            except Withheld as error:  # it was worked on all the same
                return Made(sample, error=_short(error), device_seconds=error.device_seconds)
            except AtelierError as error:
                return Made(sample, error=_short(error))
            else:
                return _made(sample, answer)


def _call(work: Work, asked: BulkRequest, sample: Sample) -> Call:
    record = work.record
    model, version = split_version(asked.model)
    return Call(
        id=f"{record.id}-{sample.index}",
        model=model,
        version=version,
        task=Task.GENERATE,
        parameters={k: v for k, v in sample.fields.items() if k not in _NOT_THE_MODELS} | {"n": 1},
        encoding=Encoding(asked.output_format, asked.output_compression),
        # Whoever can wait so long stands behind whoever waits for an answer.
        deadline=work.seconds_left(),
        tenant=record.owner,
        background=True,
        weight=float(2.0 ** (record.priority - 5)) * JOB_SHARE,
        metadata=sample.fields.get("metadata"),
    )


def _made(sample: Sample, answer: Answer) -> Made:
    if len(answer.items) != 1 or answer.items[0].image is None:
        error = EngineFailure(f"the model gave {len(answer.items)} answers where one image was due")
        return Made(sample, error=_short(error))
    return Made(
        sample,
        item=answer.items[0],
        timings=answer.timings,
        device_seconds=answer.device_seconds,
    )


def _short(error: AtelierError) -> dict[str, Any]:
    told = error.to_json()
    return {**told, "message": str(told["message"])[:MOST_ERROR_CHARS]}


def shard_of(made: Sequence[Made], asked: BulkRequest) -> bytes:
    """The tar of a shard: the same samples give the same bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for one in made:
            if one.item is None or one.item.image is None:
                continue
            key = one.sample.key
            about = {**one.item.values, **one.sample.fields, "key": key, "model": asked.model}
            _add(tar, f"{key}.{_SUFFIXES[asked.output_format]}", one.item.image)
            _add(tar, f"{key}.json", json.dumps(about, sort_keys=True).encode())
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # without a time, an owner or a group of its own
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def index_of(plan: BulkPlan, shards: Sequence[range], done: Checkpoint) -> bytes:
    """One line of JSON for each sample: where it is and what it shows, or why it is not there.

    ``shard`` is the index of the shard's artefact.
    """
    return "".join(f"{line}\n" for line in _lines(plan, shards, done)).encode()


def _lines(plan: BulkPlan, shards: Sequence[range], done: Checkpoint) -> Iterator[str]:
    for number, samples in enumerate(shards):
        for index in samples:
            sample, error = plan[index], done.errors.get(str(index))
            about = {**sample.fields, "key": sample.key, "shard": number}
            if error is None:
                yield json.dumps({**about, "status": "succeeded"}, sort_keys=True)
            else:
                told = {"code": error["code"], "message": error["message"]}
                yield json.dumps({**about, "status": "failed", "error": told}, sort_keys=True)


def _items(shards: Sequence[range], done: Checkpoint, index: Artefact) -> tuple[ResultItem, ...]:
    """What the result lists: every shard, and at last the index."""
    found = [
        ResultItem(
            {
                "kind": "shard",
                "first": samples.start,
                "samples": shard["samples"],
                "failed": shard["failed"],
                "sha256": shard["file"]["sha256"],
                "bytes": shard["file"]["size"],
            },
            number,
        )
        for number, (samples, shard) in enumerate(zip(shards, done.shards, strict=True))
    ]
    told = {
        "kind": "index",
        "samples": sum(shard["samples"] for shard in done.shards),
        "failed": len(done.errors),
        "sha256": index.sha256,
        "bytes": index.size,
    }
    return (*found, ResultItem(told, index.index))
