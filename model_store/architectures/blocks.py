"""Parts that several built-in networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions around a skip; the identity at initialisation."""

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(groups, channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_2 = nn.GroupNorm(groups, channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to the same shape."""
        h = self.conv_1(functional.silu(self.norm_1(x)))
        return x + self.conv_2(functional.silu(self.norm_2(h)))


class PatchEncoder(nn.Module):
    """Image to a feature map at a quarter of its resolution.

    All depth is spent behind a stride-4 patch embedding, where a convolution costs a sixteenth.
    """

    def __init__(self, in_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(in_channels, channels, 4, stride=4)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """``[n, in_channels, h, w]`` to ``[n, channels, h/4, w/4]``."""
        return self.blocks(self.patch(image))


class PatchDecoder(nn.Module):
    """Feature map to an image of four times its resolution: pixel shuffle, then a 3x3 refinement."""

    def __init__(self, channels: int, out_channels: int, blocks: int, refine: int = 16) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.norm = nn.GroupNorm(8, channels)
        self.expand = nn.Conv2d(channels, refine * 16, 3, padding=1)
        self.shuffle = nn.PixelShuffle(4)
        self.refine = nn.Conv2d(refine, out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, out_channels, 4h, 4w]``, unbounded."""
        h = self.shuffle(self.expand(functional.silu(self.norm(self.blocks(features)))))
        return self.refine(functional.silu(h))


def gaussian_sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """``mean + std * noise``: the reparameterised draw (Kingma and Welling, 2013, eq. 4)."""
    return mean + torch.exp(0.5 * log_variance) * noise
