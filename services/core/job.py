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
    the call: an answer later than that is of no use to the caller.
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
class Item:
    """One answer of a call: an encoded image, or values, or both."""

    values: Mapping[str, Any] = field(default_factory=dict)
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend gives back: one item per image, in order."""

    model: str
    items: tuple[Item, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class Job(Generic[P]):
    """One row of work: one image to make, or one image to judge.

    ``parameters`` are the family's own, checked. ``deadline`` is absolute, on ``time.monotonic``;
    ``None`` lets the loop choose one from the work's own cost. ``index`` is the place in the call.
    ``images`` and ``mask`` are uint8 ``[channels, height, width]`` at the model's resolution.
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
