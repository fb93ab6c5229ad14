"""The layers that StyleGAN2's networks are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.equalized import GAIN, SMALLEST

SLOPE = 0.2
FREQUENCY_SPREAD = 2.0
FARTHEST = 4.0


class ModulatedConvolution(nn.Module):
    """A convolution whose inputs are scaled by a style, and whose outputs are scaled back.

    Equations 1 and 3, computed on activations in place of weights: scaling a row's channels before
    and after one shared convolution is the same, and leaves the batch free.
    """

    def __init__(
        self, channels: int, out_channels: int, *, kernel: int = 1, demodulate: bool = True
    ) -> None:
        """Build for a ``kernel`` of 1 or 3 pixels."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, channels, kernel, kernel))
        self.gain = 1 / math.sqrt(channels * kernel * kernel)
        self.padding = kernel // 2
        self.demodulate = demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``[n, channels, h, w]`` and ``[n, channels]`` to ``[n, out_channels, h, w]``."""
        weight = self.weight * self.gain
        h = functional.conv2d(x * style[:, :, None, None], weight, padding=self.padding)
        if not self.demodulate:
            return h
        energy = style.square() @ weight.square().sum(dim=(2, 3)).T
        return h * torch.rsqrt(energy + SMALLEST)[:, :, None, None]


class StyledLayer(nn.Module):
    """A demodulated convolution, a gain, scaled noise, a bias and a leaky rectifier.

    Demodulation bounds how steep a function of places can be; the gain, one a channel, frees it.
    """

    def __init__(self, channels: int, out_channels: int, *, kernel: int = 1, grow: int = 1) -> None:
        """Build; the output is ``grow`` times as wide and as high, by pixel shuffle."""
        super().__init__()
        self.convolution = ModulatedConvolution(channels, out_channels * grow * grow, kernel=kernel)
        self.shuffle = nn.PixelShuffle(grow)
        self.gain = nn.Parameter(torch.ones(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """``[n, channels, h, w]``, ``[n, channels]`` and noise ``[n, 1, out h, out w]``."""
        h = self.shuffle(self.convolution(x, style)) * self.gain[:, None, None]
        h = h + noise * self.noise_strength
        return functional.leaky_relu(h + self.bias[:, None, None], SLOPE) * GAIN


class PlacedFourierFeatures(nn.Module):
    """A constant, coordinates and Fourier features in a frame that is moved, scaled and turned."""

    frequencies: Tensor
    grid: Tensor

    def __init__(self, side: int, bands: int = 12) -> None:
        """Build for maps of ``side`` pixels, with ``bands`` fixed random frequencies."""
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        frequencies = torch.randn(bands, 2, generator=generator) * FREQUENCY_SPREAD
        axis = (torch.arange(side) + 0.5) * 2 / side - 1
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flip(0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("grid", grid.reshape(2, -1), persistent=False)
        self.side = side
        self.channels = 2 * bands + 4

    def forward(self, pose: Tensor) -> Tensor:
        """``[n, 4]`` to ``[n, channels, side, side]``."""
        center, scale, angle = pose[:, :2, None], pose[:, 2].exp(), pose[:, 3]
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)
        place = (turn * scale[:, None, None]) @ (self.grid - center)
        phase = self.frequencies @ place
        radius = (place.square().sum(dim=1, keepdim=True) + 1e-6).sqrt().clamp(max=FARTHEST)
        features = [
            torch.ones_like(radius),
            place.clamp(-FARTHEST, FARTHEST),
            radius,
            phase.sin(),
            phase.cos(),
        ]
        return torch.cat(features, dim=1).view(-1, self.channels, self.side, self.side)
