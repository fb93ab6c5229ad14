"""Layers whose weights learn at the same pace whatever their width.

Karras et al., 2018, arXiv:1710.10196, section 4.1: weights start from N(0, 1) and He's constant is
applied when they are used, so that an optimiser whose steps do not depend on the gradient's scale
moves all of them alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 1e-8


class EqualizedLinear(nn.Module):
    """A linear layer at an equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = math.sqrt(2)) -> None:
        """Build; ``gain`` keeps the variance behind what follows: 1 where that is nothing."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs]`` to ``[n, outputs]``."""
        return functional.linear(x, self.weight * self.scale, self.bias)


class EqualizedConvolution(nn.Module):
    """A convolution of stride 1 that keeps the size, at an equalised learning rate."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, *, gain: float = math.sqrt(2)
    ) -> None:
        """Build for an odd ``kernel``; ``gain`` as in `EqualizedLinear`."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = gain / math.sqrt(channels * kernel**2)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, out_channels, h, w]``."""
        return functional.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def pixel_norm(x: Tensor) -> Tensor:
    """Each pixel's features at unit mean square (section 4.2); ``[n, channels, ...]``."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + SMALLEST)
