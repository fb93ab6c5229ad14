"""What a model's images look like, and the smallest call of each of its operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from services.core.engine import Engine
from services.core.job import Call
from tests.engines import call, some_pixels

WITHOUT_IMAGE = ("generate", "interpolate", "traverse", "style_mix", "attribute")


@dataclass(frozen=True)
class Shape:
    """What a model's images look like, and which operations it has.

    ``shrunken`` is by how much smaller the images are that it is given than those that it makes.
    """

    model: str
    channels: int
    height: int
    width: int
    operations: dict[str, dict[str, Any]]
    shrunken: int = 1

    @property
    def counted(self) -> str | None:
        """An operation that makes ``n`` images, each by its own seed; some families have none."""
        able = [name for name, schema in self.operations.items() if "n" in schema["properties"]]
        return "generate" if "generate" in able else min(able, default=None)


def shape_of(engine: Engine) -> Shape:
    info = engine.describe()
    return Shape(
        info.id,
        info.channels,
        *info.resolution,
        operations=info.operations,
        shrunken=info.limits.get("factor", 1),
    )


def minimal(shape: Shape, name: str, seed: int = 0, **parameters: Any) -> Call:
    """The smallest call of an operation; images and a mask where its kind needs them."""
    sides = shape.height // shape.shrunken, shape.width // shape.shrunken
    image = some_pixels(shape.channels, *sides, seed=seed)
    needs_image = name not in WITHOUT_IMAGE
    mask = None
    if name == "outpaint":
        parameters = {"left": shape.width // 4, **parameters}
    if name == "invert":
        parameters = {"steps": 3, **parameters}
    if name == "attribute":
        parameters = {"channels": {"0": 0.5}, **parameters}
    if name == "inpaint":
        mask = np.zeros((1, shape.height, shape.width), np.uint8)
        mask[0, : shape.height // 2] = 255
    return call(
        name,
        model=shape.model,
        images=[image] if needs_image else [],
        mask=mask,
        seed=seed,
        **parameters,
    )
