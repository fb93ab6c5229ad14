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

GAIN = math.sqrt(2)
"""Keeps the variance behind a leaky rectifier."""
SMALLEST = 1e-8


class EqualizedLinear(nn.Module):
    """A linear layer at an equalised learning rate."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        gain: float = GAIN,
        bias: float = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        """Build.

        Args:
            inputs: numbers of a row.
            outputs: numbers that a row becomes.
            gain: keeps the variance behind what follows; 1 where that is nothing.
            bias: what is added at the start.
            lr_multiplier: makes the layer learn that much slower or faster than the rest.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.scale = gain * lr_multiplier / math.sqrt(inputs)
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs]`` to ``[n, outputs]``."""
        return functional.linear(x, self.weight * self.scale, self.bias * self.lr_multiplier)


class EqualizedConvolution(nn.Module):
    """A convolution of a square kernel at an equalised learning rate."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        *,
        gain: float = GAIN,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        """Build; ``gain`` as in `EqualizedLinear`, ``padding`` as keeps the size of odd kernels."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = gain / math.sqrt(channels * kernel**2)
        self.stride = stride
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, out_channels, h / stride, w / stride]``."""
        return functional.conv2d(
            x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding
        )


def pixel_norm(x: Tensor) -> Tensor:
    """Each pixel's features at unit mean square (section 4.2); ``[n, channels, ...]``."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + SMALLEST)
