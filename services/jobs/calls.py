"""Jobs that are one call of a backend: how a call is kept, and how it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict, fields, replace
from typing import Any

from services.core.backend import Backend
from services.core.errors import Unavailable
from services.core.images import MEDIA_TYPES
from services.core.job import (
    Call,
    CallFinished,
    Encoding,
    Event,
    Progress,
    Queued,
    RowFinished,
    Task,
    Watch,
)
from services.jobs.interface import Work
from services.jobs.words import Outcome, ResultItem, digest_of

KINDS = tuple(task.value for task in Task)
"""The kinds of jobs that are one call."""

JOB_SHARE = 0.125
"""The weight of a job beside a request of the same owner: requests go first, no job starves."""


_OWN = frozenset({"id", "model", "task", "images", "mask", "controls", "deadline", "tenant"})
"""Fields of a call that follow from the job, and files; all others are kept as they are."""


def kept(call: Call) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A call as plain JSON, and its files by their digests."""
    contents = [*call.images, *call.controls, *([] if call.mask is None else [call.mask])]
    body = {
        **{f.name: getattr(call, f.name) for f in fields(call) if f.name not in _OWN},
        "parameters": dict(call.parameters),
        "encoding": asdict(call.encoding),
        "images": [digest_of(image) for image in call.images],
        "mask": None if call.mask is None else digest_of(call.mask),
        "controls": [digest_of(image) for image in call.controls],
    }
    return body, {digest_of(content): content for content in contents}


async def call_of(work: Work) -> Call:
    """The call that a job is, with what is left of its deadline."""
    body, record = work.body, work.record
    call = Call(
        id=record.id,
        model=record.model,
        task=Task(record.kind),
        images=tuple([await work.file(digest) for digest in body["images"]]),
        mask=None if body["mask"] is None else await work.file(body["mask"]),
        controls=tuple([await work.file(digest) for digest in body["controls"]]),
        deadline=work.seconds_left(),
        tenant=record.owner,
    )
    rest = {f.name: body[f.name] for f in fields(call) if f.name not in _OWN and f.name in body}
    return replace(
        call,
        **{
            **rest,
            "encoding": Encoding(**body["encoding"]),
            "weight": body["weight"] * JOB_SHARE,
            "background": True,
        },
    )


class CallRunner:
    """Implements `services.jobs.interface.Runner` for a single call."""

    def __init__(self, backend: Backend) -> None:
        """Take the backend that all calls go to."""
        self._backend = backend

    async def run(self, work: Work) -> Outcome:
        """See `Runner.run`."""
        call = await call_of(work)
        media_type = MEDIA_TYPES[call.encoding.format]
        told = _Told(work)
        finished: CallFinished | None = None
        async with aclosing(self._backend.stream(call, Watch())) as events:
            async for event in events:
                told.hear(event)
                if isinstance(event, RowFinished):
                    image = event.item.image
                    if image is not None:
                        await work.put(event.row, image, media_type)
                    kept_at = None if image is None else event.row
                    told.done(event.row, ResultItem(event.item.values, kept_at))
                elif isinstance(event, CallFinished):
                    finished = event
        if finished is None:
            raise Unavailable("the backend gave the call up")
        items = tuple(told.items[row] for row in sorted(told.items))
        return Outcome(items, finished.timings, finished.device_seconds)


class _Told:
    """How far a call is, from its events."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._rows = max(1, work.record.rows)
        self._shares: dict[int, float] = {}
        self.items: dict[int, ResultItem] = {}

    def hear(self, event: Event) -> None:
        """Take note of an event, and tell how far the call is."""
        if isinstance(event, Queued):
            self._rows = max(1, event.rows)
        elif isinstance(event, Progress):
            self._shares[event.row] = event.step / max(1, event.steps)
        self._tell()

    def done(self, row: int, item: ResultItem) -> None:
        """A row is done, and its file in place."""
        self.items[row], self._shares[row] = item, 1.0
        self._tell()

    def _tell(self) -> None:
        share = sum(self._shares.values()) / self._rows
        self._work.report(rows_done=len(self.items), progress=share)


def shown_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What of a call its owner is shown again: all but the images and long arrays."""
    parameters = {
        name: value
        for name, value in body["parameters"].items()
        if name not in ("latents", "codes", "control")
    }
    operation = {} if body["operation"] is None else {"operation": body["operation"]}
    return {**operation, **parameters, "output_format": body["encoding"]["format"]}
