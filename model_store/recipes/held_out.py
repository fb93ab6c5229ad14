"""The built-in held-out sets, as an evaluation takes them: shapes, digits, photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_store.evaluation import texture
from model_store.evaluation.suite.held_out import Factor, HeldOut, Pairs, fitted, read_folder
from model_store.export.evaluated_card import metadata_of
from model_store.recipes import digits, outlines, photographs, shapes
from services.core.backend import Backend
from services.core.errors import DocumentNotFound, InvalidParameter
from services.core.model import ModelInfo

SHRUNKEN = "shapes_8x8_grey"
TEXTURES = "textures_32x32"
CHOSEN_FROM = {
    "atelier/captioned-shapes": "shapes",
    "scikit-learn/load_digits": "digits",
    "scikit-image/data": "photographs",
}
"""The set of a model that names none, by the dataset on its card."""


def captioned_shapes(count: int, seed: int, resolution: tuple[int, int], channels: int) -> HeldOut:
    """``count`` shapes of combinations that were never trained on; strangers are photographs.

    To translate there are drawings of as many others.
    """
    generator = torch.Generator().manual_seed(seed)
    side = max(resolution)
    images, factors = shapes.batch(count, "test", generator, resolution=side)
    return HeldOut(
        name="shapes",
        split="test",
        images=fitted(_levels(images), resolution, channels),
        factors=_named(factors),
        captions=[shapes.caption(row) for row in factors.tolist()],
        domain="shapes",
        others={TEXTURES: fitted(textures(count, seed, 32), resolution, channels)},
        translations=drawings(count, seed, resolution, channels),
    )


def drawings(count: int, seed: int, resolution: tuple[int, int], channels: int) -> Pairs:
    """Outlines of shapes of combinations that were never trained on, and the filled shapes."""
    drawn = outlines.drawings(count, "test", torch.Generator().manual_seed(seed))
    source, target = (
        fitted(_levels(images), resolution, channels) for images in (drawn.outline, drawn.image)
    )
    return Pairs(source, target, _named(drawn.factors))


def handwritten_digits(
    count: int, seed: int, resolution: tuple[int, int], channels: int
) -> HeldOut:
    """At most all 360 digits of the test split; strangers are shapes shrunk to 8x8 and grey."""
    generator = torch.Generator().manual_seed(seed)
    levels, target = digits.levels("test")
    images = digits.to_8_bit(levels[:count], generator).byte()
    names = tuple(str(digit) for digit in range(digits.CLASSES))
    return HeldOut(
        name="digits",
        split="test",
        images=fitted(images, resolution, channels),
        factors={"digit": Factor(names, target[:count])},
        domain="digits",
        others={SHRUNKEN: fitted(shrunken_shapes(count, generator), resolution, channels)},
    )


def photograph_tiles(count: int, seed: int, resolution: tuple[int, int], channels: int) -> HeldOut:  # noqa: ARG001 - the tiles are always the same
    """Tiles of two photographs that were held out whole, at most all of them, evenly chosen."""
    tiles = photographs.tiles("test", max(resolution))
    places = np.linspace(0, len(tiles) - 1, min(count, len(tiles))).round().astype(int)
    images = torch.from_numpy(np.ascontiguousarray(tiles[places].transpose(0, 3, 1, 2)))
    return HeldOut(
        name="photographs",
        split="test",
        images=fitted(images, resolution, channels),
        domain="photographs" if texture.WEIGHTS.is_file() else None,
    )


def shrunken_shapes(count: int, generator: torch.Generator) -> Tensor:
    """Held-out shapes as uint8 ``[count, 1, 8, 8]``: averaged over 4x4 pixels, in luminance."""
    images, _ = shapes.batch(count, "test", generator)
    small = _levels(functional.avg_pool2d(images, 4))
    return fitted(small, (digits.SIDE, digits.SIDE), 1)


def textures(count: int, seed: int, side: int) -> Tensor:
    """Patches of photographs, uint8 ``[count, 3, side, side]``."""
    patches = photographs.patches(count, "test", side, torch.Generator().manual_seed(seed))
    return torch.from_numpy(np.ascontiguousarray(patches.transpose(0, 3, 1, 2)))


def _named(factors: Tensor) -> dict[str, Factor]:
    """The six factors ``[n, 6]`` of shapes by their names."""
    return {
        name: Factor(values, factors[:, i])
        for i, (name, values) in enumerate(shapes.FACTORS.items())
    }


def _levels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


SETS: Mapping[str, Callable[[int, int, tuple[int, int], int], HeldOut]] = {
    "shapes": captioned_shapes,
    "digits": handwritten_digits,
    "photographs": photograph_tiles,
}
"""By name: count, seed, resolution and channels to images."""


async def held_out_of(
    backend: Backend, info: ModelInfo, against: str | None, samples: int, seed: int
) -> HeldOut:
    """The images that were named, else the set that the model's card names.

    Args:
        backend: what serves the model.
        info: of the model.
        against: one of `SETS`, or a folder of images.
        samples: the most images.
        seed: of sets that are drawn.

    Raises:
        InvalidParameter: nothing was named, by the caller or by the card; or see `read_folder`.
        InvalidImage: see `read_folder`.
    """
    if against is None:
        try:
            card = (await backend.document(info.id, "card")).decode("utf-8", "replace")
        except DocumentNotFound:
            card = ""
        against = set_of(metadata_of(card))
    if against is None:
        raise InvalidParameter(
            f"the card of '{info.id}' names no built-in dataset: say what to compare with by "
            f"--against FOLDER, or one of {', '.join(SETS)}",
            param="against",
        )
    if against in SETS:
        return SETS[against](samples, seed, info.resolution, info.channels)
    return read_folder(
        Path(against), resolution=info.resolution, channels=info.channels, count=samples
    )


def set_of(card: Mapping[str, Any]) -> str | None:
    """The set that a model's card says it learned from, where it is a built-in one."""
    named = card.get("datasets") or []
    return next((CHOSEN_FROM[name] for name in named if name in CHOSEN_FROM), None)
