"""What is asked and what is answered, in plain values and bytes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

P = TypeVar("P")

ImageFormat = Literal["png", "jpeg", "webp"]


class Task(StrEnum):
    """What a model can be asked to do."""

    GENERATE = "generate"
    EDIT = "edit"
    LIKELIHOOD = "likelihood"
    ENCODE = "encode"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How images leave the service. ``compression`` is the JPEG/WebP quality in [0, 100]."""

    format: ImageFormat = "png"
    compression: int = 100


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a gateway hands it to a backend.

    ``parameters`` are the fields that the client set, not yet checked against the model; ``images``
    and ``mask`` are encoded files. ``deadline`` is in seconds from the moment the backend receives
    the call: an answer later than that is of no use to the caller. ``tenant`` is an opaque name of
    who asks, among whom a device is shared by ``weight``. ``controls`` are encoded files too, one
    for each entry of ``control`` in the parameters. ``trace`` says which trace and span the work
    belongs to, as the headers ``traceparent`` and ``tracestate`` do. ``visible`` are the models
    that the caller may know of, ``None`` for all: a refusal names no others.
    ``metadata`` says whether the images' files hold the parameters that they were made by; ``None``
    leaves that to the operator. ``version`` is the digest of the version of the model that is to do
    it, empty for the one that is served. ``provenance`` is false where images become tensors, which
    cannot say where they come from. ``background`` is true of work that nobody waits for.
    """

    id: str
    model: str
    task: Task
    parameters: Mapping[str, Any] = field(default_factory=dict)
    operation: str | None = None
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None
    encoding: Encoding = Encoding()
    deadline: float | None = None
    tenant: str = ""
    weight: float = 1.0
    controls: tuple[bytes, ...] = ()
    trace: Mapping[str, str] = field(default_factory=dict)
    visible: tuple[str, ...] | None = None
    metadata: bool | None = None
    provenance: bool = True
    background: bool = False
    version: str = ""

    @property
    def payer(self) -> str:
        """Among whom a device is shared: nobody's requests stand behind their own jobs."""
        return f"{self.tenant}/jobs" if self.background else self.tenant

    def sees(self, model: str) -> bool:
        """Whether the caller may know of a model."""
        return self.visible is None or model in self.visible

    @property
    def name(self) -> str:
        """What is to be done, as a model lists it: the task, or the operation of an edit."""
        return self.operation if self.operation is not None else self.task.value


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that a call spent in each stage; for several images, the slowest of them."""

    queue: float = 0.0
    prepare: float = 0.0
    step: float = 0.0
    decode: float = 0.0
    encode: float = 0.0


@dataclass(frozen=True, slots=True)
class StageTimings:
    """What one model of a cascade took."""

    model: str
    timings: Timings


@dataclass(frozen=True, slots=True)
class Item:
    """One answer of a call: an encoded image, or values, or both."""

    values: Mapping[str, Any] = field(default_factory=dict)
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend gives back: one item per image, in order.

    ``versions`` are the digests of the models that took part, by their names. ``stages`` are the
    models that a cascade went through, whose timings the answer's own add up; empty for one model.
    ``device_seconds`` is its share of all the evaluations that it was part of.
    """

    model: str
    items: tuple[Item, ...]
    timings: Timings
    stages: tuple[StageTimings, ...] = ()
    device_seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job(Generic[P]):
    """One row of work: one image to make, or one image to judge.

    ``parameters`` are the family's own, checked. ``deadline`` is absolute, on ``time.monotonic``;
    ``None`` lets the loop choose one from the work's own cost. ``index`` is the place in the call.
    ``images``, ``mask`` and ``controls`` are uint8 ``[channels, height, width]`` at the model's
    resolution.
    ``tenant`` and ``weight`` are the call's.
    """

    id: str
    model: str
    name: str
    parameters: P
    seed: int = 0
    index: int = 0
    deadline: float | None = None
    images: tuple[NDArray[np.uint8], ...] = ()
    mask: NDArray[np.uint8] | None = None
    tenant: str = ""
    weight: float = 1.0
    controls: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True, slots=True)
class Watch:
    """What a caller wants to see of a call under way, besides how far it is.

    Attributes:
        preview_every: a preview after every so many evaluations; 0 for none.
        previews: so many previews, evenly spaced over the evaluations; 0 for none.
    """

    preview_every: int = 0
    previews: int = 0

    def due(self, step: int, steps: int) -> bool:
        """Whether a preview follows evaluation ``step`` of ``steps``; the image follows the last.

        Args:
            step: evaluations done, from 1.
            steps: evaluations in all.
        """
        if step >= steps:
            return False
        if self.preview_every and step % self.preview_every == 0:
            return True
        share = self.previews + 1
        return any(step == round(k * steps / share) for k in range(1, share))


@dataclass(frozen=True, slots=True)
class Queued:
    """The call was accepted.

    ``rows`` of its own stand behind ``ahead`` rows of others; ``seconds`` is the predicted device
    time until all of these are done. ``versions`` are as in `Answer`, as far as they are known.
    """

    rows: int
    ahead: int
    seconds: float
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """A row has done ``step`` of its ``steps`` network evaluations.

    ``sigma`` is the standard deviation of the noise that is left in the state, where the model's
    family has one; ``seconds_left`` is predicted from the pace so far.
    """

    row: int
    step: int
    steps: int
    sigma: float | None
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Preview:
    """What a row is becoming, as an encoded image; ``index`` counts the row's previews from 0."""

    row: int
    step: int
    steps: int
    index: int
    image: bytes


@dataclass(frozen=True, slots=True)
class RowFinished:
    """A row is done; ``item`` is what an `Answer` would hold in its place."""

    row: int
    item: Item


@dataclass(frozen=True, slots=True)
class CallFinished:
    """Every row was handed out; always the last event. The rest is as in `Answer`."""

    model: str
    timings: Timings
    device_seconds: float = 0.0
    stages: tuple[StageTimings, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


Event = Queued | Progress | Preview | RowFinished | CallFinished
