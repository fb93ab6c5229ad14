"""Handwritten digits: scikit-learn's 1,797 images of 8x8 with 17 grey levels, in a fixed split.

Likelihoods are per pixel of an 8-bit form: a level ``v`` in 0..16 becomes
``floor((v + u) * 256 / 17)`` with ``u`` uniform in [0, 1), which spreads a level evenly over the
8-bit values it covers, and is then dequantised with uniform noise as 8-bit images are.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

Split = Literal["train", "validation", "test"]

LEVELS = 17
CLASSES = 10
SIDE = 8
DIMENSIONS = SIDE * SIDE
DATA_CARD = (
    "scikit-learn's `load_digits` (a copy of the test set of the UCI Optical Recognition "
    "of Handwritten Digits data, CC BY 4.0, Alpaydin and Kaynak, 1998, "
    "doi:10.24432/C50P49): 1,797 images of 8x8 with 17 grey levels, split by digit and a fixed "
    "seed into 1,257 to train, 180 for choosing, 360 to test. The 17 levels are spread to 8 "
    "bits with uniform noise inside each level, then dequantised with uniform noise."
)


@cache
def levels(split: Split) -> tuple[Tensor, Tensor]:
    """Grey levels int64 ``[n, 1, 8, 8]`` in 0..16 and digits int64 ``[n]`` of one split.

    Stratified by digit with a fixed seed: 1,257 to train, 180 for choosing, 360 to test.
    """
    data = load_digits()
    rows = range(len(data.target))
    kept, test = train_test_split(rows, test_size=360, random_state=0, stratify=data.target)
    train, validation = train_test_split(
        kept, test_size=180, random_state=0, stratify=data.target[kept]
    )
    chosen = {"train": train, "validation": validation, "test": test}[split]
    images = torch.from_numpy(data.images[chosen]).long().unsqueeze(1)
    return images, torch.from_numpy(data.target[chosen]).long()


def to_8_bit(images: Tensor, generator: torch.Generator) -> Tensor:
    """Levels in 0..16 to whole numbers in 0..255, float32 of the same shape."""
    noise = torch.rand(images.shape, generator=generator)
    return ((images + noise) * (256 / LEVELS)).floor().clamp(0, 255)


def dequantize(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers in 0..255 to [0, 1], uniformly inside each step of 1/256."""
    return (pixels + torch.rand(pixels.shape, generator=generator)) / 256


def signed(unit: Tensor) -> Tensor:
    """Images in [0, 1] to [-1, 1]."""
    return 2 * unit - 1


def dequantized(split: Split, seed: int) -> Tensor:
    """One draw of a split's images in [0, 1], float32 ``[n, 1, 8, 8]``."""
    generator = torch.Generator().manual_seed(seed)
    return dequantize(to_8_bit(levels(split)[0], generator), generator)


def shift(images: Tensor, generator: torch.Generator, *, chance: float) -> Tensor:
    """Move a share ``chance`` of the images by one pixel up, down, left or right."""
    count = len(images)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.tensor([[1, 1], [0, 1], [2, 1], [1, 0], [1, 2]])
    kind = torch.randint(1, len(moves), (count,), generator=generator)
    kind[torch.rand(count, generator=generator) >= chance] = 0
    top, left = moves[kind].unbind(1)
    row = top[:, None, None] + torch.arange(SIDE)[None, :, None]
    column = left[:, None, None] + torch.arange(SIDE)[None, None, :]
    return padded[torch.arange(count)[:, None, None], 0, row, column].unsqueeze(1)


def augmented(images: Tensor, generator: torch.Generator, *, chance: float) -> Tensor:
    """Levels ``[n, 1, 8, 8]`` to images in [0, 1]: some moved by a pixel, with fresh noise."""
    moved = shift(images, generator, chance=chance)
    return dequantize(to_8_bit(moved, generator), generator)
