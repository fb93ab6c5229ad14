"""How far an image is from another, seen sharp and from ever further away, and its gradient."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SCALES = (1, 2, 4, 8)
"""Sides of the squares that pixels are averaged over."""


def pyramid_loss(image: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """The mean squared difference, summed over the scales; and its gradient by the image.

    Averages over squares let colours and places pull before details do: seen sharp alone, a shape
    that lies beside its target has no reason to move there. The gradient is written out, so that
    a row's arithmetic is its own whatever else is computed.

    Args:
        image: ``[channels, height, width]``.
        target: of the same shape.

    Returns:
        The loss, and its gradient, of the image's shape.
    """
    difference = image - target
    height, width = difference.shape[1:]
    loss, gradient = 0.0, torch.zeros_like(difference)
    for side in SCALES:
        if height % side or width % side:
            continue
        mean = functional.avg_pool2d(difference[None], side)[0]
        loss += float(np.square(mean.numpy(), dtype=np.float64).mean())
        spread = mean.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
        gradient += spread * (2 / (mean.numel() * side * side))
    return loss, gradient
