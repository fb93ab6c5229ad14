"""Between 8-bit pixels and what networks compute with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from services.core.errors import EngineFailure
from services.core.images import Pixels

LEVELS = 256
BIN_CENTER = 0.5


def to_tensor(pixels: Sequence[Pixels], pixel_range: tuple[float, float]) -> Tensor:
    """8-bit images to float32 ``[n, channels, height, width]``, scaled to the range."""
    low, high = pixel_range
    stacked = torch.from_numpy(np.stack(pixels)).float()
    return stacked / (LEVELS - 1) * (high - low) + low


def to_pixels(images: Tensor, pixel_range: tuple[float, float]) -> list[Pixels]:
    """The inverse of `to_tensor`, rounded and clamped: one uint8 array per image.

    Raises:
        EngineFailure: a value is not finite.
    """
    require_finite(images)
    low, high = pixel_range
    scaled = (images.float().cpu() - low) / (high - low) * (LEVELS - 1)
    return list(scaled.round().clamp(0, LEVELS - 1).to(torch.uint8).numpy())


def to_bins(pixels: Sequence[Pixels], offsets: Tensor, pixel_range: tuple[float, float]) -> Tensor:
    """8-bit images as densities see them: each pixel a bin of width 1/256 of the range.

    Args:
        pixels: uint8 images.
        offsets: where in its bin each pixel lies, in [0, 1); of the images' stacked shape.
        pixel_range: what the bins of 0 to 255 are spread over.
    """
    low, high = pixel_range
    stacked = torch.from_numpy(np.stack(pixels)).float()
    return (stacked + offsets) / LEVELS * (high - low) + low


def bin_centers(pixels: Sequence[Pixels], pixel_range: tuple[float, float]) -> Tensor:
    """`to_bins`, with every pixel in the middle of its bin."""
    centers = torch.full((len(pixels), *pixels[0].shape), BIN_CENTER)
    return to_bins(pixels, centers, pixel_range)


def from_bins(images: Tensor, pixel_range: tuple[float, float]) -> list[Pixels]:
    """The 8-bit value of the bin that each value falls into; the inverse of `to_bins`."""
    require_finite(images)
    low, high = pixel_range
    scaled = (images.float().cpu() - low) / (high - low) * LEVELS
    return list(scaled.floor().clamp(0, LEVELS - 1).to(torch.uint8).numpy())


def require_finite(values: Tensor) -> None:
    """Refuse to hand out what a network computed when it is no number.

    Raises:
        EngineFailure: a value is NaN or infinite.
    """
    if not torch.isfinite(values).all():
        raise EngineFailure("the model computed values that are not finite for this request")
