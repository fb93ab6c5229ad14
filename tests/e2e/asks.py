"""Requests as plain values, which a server and a backend in this process understand alike."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.core.job import Call, Task
from services.core.model import ModelInfo

WITHOUT_NOISE = ("ddim", "euler", "heun", "dpmpp_2m", "unipc", "lms")
SAMPLERS = (*WITHOUT_NOISE, "ddpm", "euler_ancestral", "dpmpp_2m_sde")
TAKE_AN_IMAGE = (
    "variation", "inpaint", "outpaint", "invert", "reconstruct", "likelihood", "super_resolution",
    "translate", "denoise",
)  # fmt: skip
STRIPS = ("interpolate", "traverse")
SCALES = (1.0, 1.0, 1.5, 3.0, 7.5)
COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "star")


@dataclass(frozen=True)
class Ask:
    """One request."""

    model: str
    task: Task
    parameters: Mapping[str, Any]
    operation: str | None = None
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None

    @property
    def path(self) -> str:
        """Where it is posted."""
        return f"/v1/{self.task.value}"

    def body(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = {"model": self.model, **self.parameters}
        if self.operation is not None:
            found["operation"] = self.operation
        if self.images:
            found["images"] = [base64.b64encode(image).decode() for image in self.images]
        if self.mask is not None:
            found["mask"] = base64.b64encode(self.mask).decode()
        return found

    def call(self) -> Call:
        """It, as a gateway would hand it on."""
        return Call(
            id="alone",
            model=self.model,
            task=self.task,
            parameters=self.parameters,
            operation=self.operation,
            images=self.images,
            mask=self.mask,
        )


@dataclass(frozen=True)
class Shown:
    """One item of an answer: pixels by value, and every number as JSON prints it."""

    pixels: bytes | None
    values: str

    @classmethod
    def of(cls, image: bytes | None, values: Mapping[str, Any]) -> Shown:
        """From an encoded image and its values."""
        shown = None if image is None else b"%d %d:" % pixels(image).shape[:2] + raw(image)
        return cls(shown, json.dumps(values, sort_keys=True))


def pixels(image: bytes) -> NDArray[np.uint8]:
    """A decoded image, ``[height, width]`` or ``[height, width, 3]``."""
    return np.asarray(Image.open(io.BytesIO(image)))


def raw(image: bytes) -> bytes:
    """The bytes of a decoded image."""
    return pixels(image).tobytes()


def shown(body: Mapping[str, Any]) -> list[Shown]:
    """What a JSON answer shows."""
    found = []
    for entry in body["data"]:
        values = {name: value for name, value in entry.items() if name != "b64_json"}
        image = base64.b64decode(entry["b64_json"]) if "b64_json" in entry else None
        found.append(Shown.of(image, values))
    return found


def png(seed: int, side: int) -> bytes:
    """A picture of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def half_mask(side: int) -> bytes:
    """White on the right, where an image is to be made anew."""
    half = np.zeros((side, side), np.uint8)
    half[:, side // 2 :] = 255
    stream = io.BytesIO()
    Image.fromarray(half).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Mix:
    """Draws requests that a catalog's models can answer, the same for the same seed."""

    models: Sequence[ModelInfo]
    source: random.Random = field(default_factory=lambda: random.Random(7))

    def draw(self, count: int) -> list[Ask]:
        """As many requests, over every operation of every model in turn."""
        kinds = [(m, o) for m in self.models for o in sorted(m.operations) if o != "encode"]
        asks = [self._ask(*kinds[i % len(kinds)]) for i in range(count)]
        self.source.shuffle(asks)
        return asks

    def _ask(self, model: ModelInfo, name: str) -> Ask:
        task = Task(name) if name in list(Task) else Task.EDIT
        fields = model.operations[name]["properties"]
        wanted = {"seed": self.source.randrange(2**40)}
        wanted |= {k: draw(self) for k, draw in _DRAWN.items() if k in fields}
        if "n" in fields:
            wanted["n"] = self.source.randint(2 if name in STRIPS else 1, 3)
        if "code" in fields:  # of a category there are no values in between
            del wanted["n"]
            wanted["values"] = [self.source.randrange(2) for _ in range(2)]
        if "prompt" in fields and "text" not in model.conditioning:
            wanted = {k: v for k, v in wanted.items() if "prompt" not in k}
        if "sampler" in wanted:
            fitting = [name for name in SAMPLERS if name in model.limits["samplers"]]
            wanted["sampler"] = self.source.choice(fitting)
        if model.labels and "label" in fields and name != "likelihood":
            wanted["label"] = self.source.choice(model.labels)
        if name == "attribute":
            wanted["channels"] = {"0": 0.5}
            names = model.limits.get("attributes", [])
            wanted["attributes"] = {n: self.source.choice([-2.0, 1.5]) for n in names[:1]}
        side = model.resolution[0]
        if name == "outpaint":
            wanted["left"] = side // 4
        if name == "invert" and "sampler" in fields:
            fitting = [name for name in WITHOUT_NOISE if name in model.limits["samplers"]]
            wanted["sampler"] = self.source.choice(fitting)
        several = 2 if name in ("reconstruct", "likelihood") else 1
        count = self.source.randint(1, several) if name in TAKE_AN_IMAGE else 0
        if name == "interpolate" and "generate" not in model.operations:
            count = 2  # there is no noise to draw the ends from
        return Ask(
            model=model.id,
            task=task,
            parameters=wanted,
            operation=name if task is Task.EDIT else None,
            images=tuple(png(self.source.randrange(99), side) for _ in range(count)),
            mask=half_mask(side) if name == "inpaint" else None,
        )

    def prompt(self) -> str:
        """A scene."""
        return f"a {self.source.choice(COLORS)} {self.source.choice(SHAPES)}"


_DRAWN: Mapping[str, Any] = {
    "prompt": lambda mix: mix.prompt(),
    "negative_prompt": lambda mix: mix.source.choice(["", mix.prompt()]),
    "steps": lambda mix: mix.source.randint(2, 12),
    "samples": lambda mix: mix.source.randint(1, 3),
    "sampler": lambda mix: mix.source.choice(SAMPLERS),
    "guidance_scale": lambda mix: mix.source.choice(SCALES),
    "guidance_interval": lambda mix: mix.source.choice([[0.0, 1.0], [0.2, 0.7]]),
    "guidance_rescale": lambda mix: mix.source.choice([0.0, 0.7]),
    "source_prompt": lambda mix: mix.prompt(),
    "strength": lambda mix: mix.source.choice([0.3, 0.6, 1.0]),
    "truncation": lambda mix: mix.source.choice([0.5, 1.0]),
    "temperature": lambda mix: mix.source.choice([0.7, 1.0]),
    "top_k": lambda mix: mix.source.choice([4, 32]),
    "top_p": lambda mix: mix.source.choice([0.5, 1.0]),
    "spherical": lambda mix: mix.source.choice([True, False]),
    "sample": lambda mix: mix.source.choice([True, False]),
}
