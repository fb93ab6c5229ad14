"""A large image as overlapping tiles of the one size that a network takes.

Tiles are averaged where they overlap; denoised ones at every step, so that all tiles agree on one
image (MultiDiffusion: Bar-Tal et al., 2023, arXiv:2302.08113, eq. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

OVERLAP = 4
"""Neighbours share a quarter of a tile or more: one over this."""

Corner = tuple[int, int]


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of one image lie: the top left corners, and how much each pixel counts.

    Attributes:
        side: height and width of a tile.
        corners: of every tile, row by row.
        weights: ``[side, side]``, least at a tile's edges; all ones where there is one tile.
        total: ``[height, width]``, the weights of all tiles that cover a pixel.
    """

    side: int
    corners: tuple[Corner, ...]
    weights: Tensor
    total: Tensor

    def cut(self, image: Tensor) -> list[Tensor]:
        """The tiles ``[channels, side, side]`` of an image ``[channels, height, width]``."""
        return [image[:, y : y + self.side, x : x + self.side] for y, x in self.corners]

    def join(self, tiles: Sequence[Tensor]) -> Tensor:
        """The image whose tiles these are: their weighted mean, summed in a fixed order."""
        found = torch.zeros(tiles[0].shape[0], *self.total.shape, dtype=tiles[0].dtype)
        for (y, x), tile in zip(self.corners, tiles, strict=True):
            found[:, y : y + self.side, x : x + self.side] += self.weights * tile
        return found / self.total


@lru_cache(maxsize=64)
def tiling(height: int, width: int, side: int, factor: int = 1) -> Tiling:
    """The fewest tiles that cover an image and overlap as `OVERLAP` says, evenly spread.

    Remembered, since most images of a service have one of few sizes.

    Args:
        height: of the image, at least ``side``.
        width: of the image, at least ``side``.
        side: of a tile.
        factor: the tiling is that of the image and its tiles at so many times their size.
    """
    corners = tuple(
        (factor * y, factor * x) for y in _starts(height, side) for x in _starts(width, side)
    )
    large = factor * side
    weights = torch.ones(large, large)
    if len(corners) > 1:
        ramp = torch.minimum(torch.arange(1, large + 1), torch.arange(large, 0, -1)).float()
        weights = torch.minimum(ramp[:, None], ramp[None, :]) / ramp.max()
    total = torch.zeros(factor * height, factor * width)
    for y, x in corners:
        total[y : y + large, x : x + large] += weights
    return Tiling(large, corners, weights, total)


def _starts(extent: int, side: int) -> list[int]:
    stride = side - side // OVERLAP
    count = 1 + ceil((extent - side) / stride)
    return [round(i * (extent - side) / max(1, count - 1)) for i in range(count)]
