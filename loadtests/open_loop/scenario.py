"""A scenario file: which requests arrive, how often, and within what time they are to be answered.

Values of a body may be drawn anew for every request: ``{choose: [...]}`` takes one of a list,
``{between: [low, high]}`` a number (whole where both ends are), ``{image: [width, height]}`` a
data URL of a PNG of colored noise. The seed decides all of it, so two runs send the same bytes at
the same moments.
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtests.arrivals import Process, arrivals

DRAWS = ("choose", "between", "image")

Positive = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arrivals(Strict):
    """How requests arrive; see `loadtests.arrivals`."""

    process: Process = "poisson"
    burstiness: Positive = 1.0


class Objective(Strict):
    """Within what time, from the moment it was due, a share of the requests is to be answered."""

    seconds: Positive | None = None
    """At most so long; this or ``times_solo``."""
    times_solo: Positive | None = None
    """At most so many times as long as lone requests of the kind take in the median."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Of all that were due: refused and failed ones count as late."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.seconds is None) == (self.times_solo is None):
            raise ValueError("an objective has either `seconds` or `times_solo`")
        return self


class Kind(Strict):
    """One kind of request in the mix."""

    name: str
    weight: Positive = 1.0
    path: Annotated[str, Field(pattern=r"^/")] = "/v1/generate"
    headers: dict[str, str] = {}
    body: dict[str, Any]
    objective: Objective

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        drawn(self.body, random.Random(0))
        return self


class Scenario(Strict):
    """A traffic, at one or several rates."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    about: str = ""
    seed: int = 11
    seconds: Positive = 30.0
    rates: Annotated[list[Positive], Field(min_length=1)]
    """Requests per second, each for so many seconds."""
    arrivals: Arrivals = Arrivals()
    mix: Annotated[list[Kind], Field(min_length=1)]

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [kind.name for kind in self.mix]
        if len(set(names)) < len(names):
            raise ValueError(f"two kinds have one name: {', '.join(names)}")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """The scenario of a YAML file.

        Raises:
            ValueError: it is none; the message says where and why.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValidationError) as error:
            raise ValueError(f"{path} is no scenario: {error}") from error

    def due(self, rate: float) -> list[Due]:
        """All requests of one rate, by when they are due."""
        draw = random.Random(self.seed)
        weights = [kind.weight for kind in self.mix]
        times = arrivals(
            self.arrivals.process,
            rate,
            self.seconds,
            self.seed,
            burstiness=self.arrivals.burstiness,
        )
        kinds = draw.choices(self.mix, weights, k=len(times))
        return [Due.of(at, kind, draw) for at, kind in zip(times, kinds, strict=True)]


@dataclass(frozen=True, slots=True)
class Due:
    """One request: when it is due, in seconds from the start, and what it is."""

    at: float
    kind: Kind
    body: bytes

    @classmethod
    def of(cls, at: float, kind: Kind, draw: random.Random) -> Self:
        """One of a kind, its values drawn."""
        return cls(at, kind, json.dumps(drawn(kind.body, draw)).encode())


def drawn(value: Any, draw: random.Random) -> Any:
    """A body's value with everything in it drawn that is to be.

    Raises:
        ValueError: what is to be drawn is not said right.
    """
    if isinstance(value, list):
        return [drawn(one, draw) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or (name := next(iter(value))) not in DRAWS:
        return {key: drawn(one, draw) for key, one in value.items()}
    given = value[name]
    if not isinstance(given, list) or not given:
        raise ValueError(f"`{name}` takes a list, not {given!r}")
    if name == "choose":
        return draw.choice(given)
    if len(given) != 2 or not all(isinstance(one, (int, float)) for one in given):
        raise ValueError(f"`{name}` takes a list of two numbers, not {given!r}")
    if name == "image":
        return _noise(given, draw)
    low, high = given
    whole = isinstance(low, int) and isinstance(high, int)
    return draw.randint(low, high) if whole else draw.uniform(low, high)


def _noise(size: Sequence[int], draw: random.Random) -> str:
    width, height = size
    image = Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
