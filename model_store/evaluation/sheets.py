"""Sample sheets: a grid of images as one small PNG."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def save_sheet(
    images: Tensor, path: Path, *, columns: int, low: float = -1.0, high: float = 1.0, zoom: int = 2
) -> None:
    """Write images row by row, each pixel shown as ``zoom`` by ``zoom``, one dark line between.

    Args:
        images: ``[n, c, h, w]`` with 1 or 3 channels, ``n`` a multiple of ``columns``.
        path: where to write.
        columns: images in a row.
        low: the value shown as black.
        high: the value shown as white.
        zoom: how many screen pixels an image pixel is wide.
    """
    count, _, height, width = images.shape
    scaled = ((images.clamp(low, high) - low) * (255 / (high - low))).round().byte()
    scaled = scaled.expand(count, 3, height, width)
    framed = torch.full((count, 3, height + 1, width + 1), 32, dtype=torch.uint8)
    framed[:, :, :height, :width] = scaled
    rows = count // columns
    grid = framed[: rows * columns].view(rows, columns, 3, height + 1, width + 1)
    pixels = grid.permute(0, 3, 1, 4, 2).reshape(rows * (height + 1), columns * (width + 1), 3)
    picture = Image.fromarray(pixels[:-1, :-1].contiguous().numpy())
    size = (picture.width * zoom, picture.height * zoom)
    picture.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)
