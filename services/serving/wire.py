"""Calls and answers between processes: plain values and bytes, never objects of ours."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from services.core.adapters import AdapterInfo
from services.core.backend import PoolStatus
from services.core.errors import AtelierError, from_json
from services.core.job import (
    Answer,
    Call,
    CallFinished,
    Encoding,
    Event,
    Item,
    Preview,
    Progress,
    Queued,
    RowFinished,
    Task,
    Timings,
    Watch,
)
from services.core.model import ModelInfo, ReferenceSet

Plain = dict[str, Any]

_EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Queued, Progress, Preview, RowFinished, CallFinished)
}


def pack_call(call: Call) -> Plain:
    """A call as plain values."""
    return asdict(call)


def unpack_call(plain: Plain) -> Call:
    """The inverse of `pack_call`."""
    return Call(
        **{
            **plain,
            "task": Task(plain["task"]),
            "images": tuple(plain["images"]),
            "controls": tuple(plain.get("controls", ())),
            "visible": None if plain.get("visible") is None else tuple(plain["visible"]),
            "encoding": Encoding(**plain["encoding"]),
        }
    )


def pack_outcome(outcome: Answer | AtelierError) -> Plain:
    """An answer or an error as plain values."""
    if isinstance(outcome, AtelierError):
        return {"error": outcome.to_json()}
    return {"answer": asdict(outcome)}


def unpack_outcome(plain: Plain) -> Answer:
    """The answer of `pack_outcome`.

    Raises:
        AtelierError: the one that was packed.
    """
    if "error" in plain:
        raise from_json(plain["error"])
    answer = plain["answer"]
    return Answer(
        model=answer["model"],
        items=tuple(Item(**item) for item in answer["items"]),
        timings=Timings(**answer["timings"]),
        device_seconds=answer["device_seconds"],
        versions=answer.get("versions", {}),
    )


def pack_watch(watch: Watch) -> Plain:
    """What is to be seen of a call, as plain values."""
    return asdict(watch)


def unpack_watch(plain: Plain) -> Watch:
    """The inverse of `pack_watch`."""
    return Watch(**plain)


def pack_event(event: Event) -> Plain:
    """An event of a call as plain values."""
    return {"event": type(event).__name__, **asdict(event)}


def unpack_event(plain: Plain) -> Event:
    """The inverse of `pack_event`."""
    fields = {name: value for name, value in plain.items() if name != "event"}
    if "item" in fields:
        fields["item"] = Item(**fields["item"])
    if "timings" in fields:
        fields["timings"] = Timings(**fields["timings"])
        fields["stages"] = ()  # a cascade is put together at the gateway
    return _EVENTS[plain["event"]](**fields)


def pack_model(info: ModelInfo) -> Plain:
    """A model's description as plain values."""
    return asdict(info)


def unpack_model(plain: Plain) -> ModelInfo:
    """The inverse of `pack_model`."""
    lists = ("tasks", "conditioning", "resolution", "labels")
    adapters = tuple(AdapterInfo(**adapter) for adapter in plain.get("adapters", ()))
    given = plain.get("reference")
    reference = given and ReferenceSet(tuple(given["log_likelihoods"]), given["settings"])
    return ModelInfo(
        **{
            **plain,
            **{name: tuple(plain[name]) for name in lists},
            "adapters": adapters,
            "reference": reference,
        }
    )


def pack_status(status: PoolStatus) -> Plain:
    """A pool's status as plain values."""
    return asdict(status)


def unpack_status(plain: Plain) -> PoolStatus:
    """The inverse of `pack_status`."""
    return PoolStatus(**{**plain, "loaded": tuple(plain["loaded"])})
