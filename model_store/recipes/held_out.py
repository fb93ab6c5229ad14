"""The built-in held-out sets, as an evaluation takes them: shapes, digits, photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_store.evaluation import texture
from model_store.evaluation.suite.held_out import Factor, HeldOut, fitted
from model_store.recipes import digits, photographs, shapes

SHRUNKEN = "shapes_8x8_grey"
TEXTURES = "textures_32x32"
CHOSEN_FROM = {
    "atelier/captioned-shapes": "shapes",
    "scikit-learn/load_digits": "digits",
    "scikit-image/data": "photographs",
}
"""The set of a model that names none, by the dataset on its card."""


def captioned_shapes(count: int, seed: int, resolution: tuple[int, int], channels: int) -> HeldOut:
    """``count`` shapes of combinations that were never trained on; strangers are photographs."""
    generator = torch.Generator().manual_seed(seed)
    side = max(resolution)
    images, factors = shapes.batch(count, "test", generator, resolution=side)
    named = {
        name: Factor(values, factors[:, i])
        for i, (name, values) in enumerate(shapes.FACTORS.items())
    }
    return HeldOut(
        name="shapes",
        split="test",
        images=fitted(_levels(images), resolution, channels),
        factors=named,
        captions=[shapes.caption(row) for row in factors.tolist()],
        domain="shapes",
        others={TEXTURES: fitted(textures(count, seed, 32), resolution, channels)},
    )


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


def _levels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


SETS: Mapping[str, Callable[[int, int, tuple[int, int], int], HeldOut]] = {
    "shapes": captioned_shapes,
    "digits": handwritten_digits,
    "photographs": photograph_tiles,
}
"""By name: count, seed, resolution and channels to images."""


def set_of(card: Mapping[str, Any]) -> str | None:
    """The set that a model's card says it learned from, where it is a built-in one."""
    named = card.get("datasets") or []
    return next((CHOSEN_FROM[name] for name in named if name in CHOSEN_FROM), None)
