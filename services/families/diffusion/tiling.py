"""A large latent decoded in overlapping tiles, whose seams are blended.

As diffusers' `enable_tiling` does; here all tiles have one size, as a compiled decoder wants it,
and lie evenly, so that the last is no sliver. A tile does not see beyond its edges: what a decoder
gathers from the whole image (group norm, the attention in its middle) differs a little from tile to
tile, which the blending makes gradual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

OVERLAP = 0.25
"""Of a tile's side, at least."""


@dataclass(frozen=True)
class Tiling:
    """How a latent is cut.

    Attributes:
        size: height and width of the latent.
        tile: height and width of a tile, at most as large.
    """

    size: tuple[int, int]
    tile: tuple[int, int]

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """The top left corner of each tile, row by row."""
        tops, lefts = (_starts(size, tile) for size, tile in zip(self.size, self.tile, strict=True))
        return tuple((top, left) for top in tops for left in lefts)

    def cut(self, x: Tensor, place: int) -> Tensor:
        """One tile of a latent ``[c, h, w]``."""
        top, left = self.places[place]
        return x[:, top : top + self.tile[0], left : left + self.tile[1]]

    def blend(self, parts: Sequence[Tensor]) -> Tensor:
        """The image ``[channels, H, W]`` of its decoded tiles, in the order of `places`."""
        scale = parts[0].shape[-1] // self.tile[1]
        height, width = self.size[0] * scale, self.size[1] * scale
        image = torch.zeros(parts[0].shape[0], height, width, dtype=torch.float64)
        total = torch.zeros(height, width, dtype=torch.float64)
        for part, (top, left) in zip(parts, self.places, strict=True):
            down = _ramp(top, self.size[0], self.tile[0], scale)
            across = _ramp(left, self.size[1], self.tile[1], scale)
            weight = down[:, None] * across
            rows = slice(top * scale, (top + self.tile[0]) * scale)
            columns = slice(left * scale, (left + self.tile[1]) * scale)
            image[:, rows, columns] += weight * part
            total[rows, columns] += weight
        return (image / total).to(parts[0].dtype)


def tiling_of(latent: Sequence[int], decoder: Sequence[int | None]) -> Tiling | None:
    """The tiles of a latent for a decoder that takes less at once; ``None`` for one that does not.

    Args:
        latent: ``[channels, h, w]``.
        decoder: the shape that it takes.
    """
    sides = [side for side in decoder if side is not None]
    if len(sides) != 3 or len(latent) != 3 or sides == list(latent) or sides[0] != latent[0]:
        return None
    if sides[1] > latent[1] or sides[2] > latent[2]:
        return None
    return Tiling((latent[1], latent[2]), (sides[1], sides[2]))


def _starts(size: int, tile: int) -> list[int]:
    """Where tiles begin along one side: as few as overlap enough, evenly spread."""
    if tile >= size:
        return [0]
    stride = max(1, math.floor(tile * (1 - OVERLAP)))
    count = math.ceil((size - tile) / stride) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def _ramp(start: int, size: int, tile: int, scale: int) -> Tensor:
    """Weights along a tile, in pixels: 1 inside, falling towards edges that others overlap."""
    length, fade = tile * scale, max(1, math.floor(tile * OVERLAP)) * scale
    rising = ((torch.arange(length, dtype=torch.float64) + 0.5) / fade).clamp(max=1.0)
    weight = torch.ones(length, dtype=torch.float64)
    if start > 0:
        weight = weight * rising
    if start + tile < size:
        weight = weight * rising.flip(0)
    return weight
