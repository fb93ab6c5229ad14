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
    """Feature map to an image of four times its size: pixel shuffle, then a 3x3 refinement."""

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


class StyledBlock(nn.Module):
    """A residual block whose normalised features are scaled and shifted by a style vector."""

    def __init__(self, channels: int, style: int) -> None:
        """Build as the identity."""
        super().__init__()
        self.norm = nn.GroupNorm(8, channels, affine=False)
        self.style = nn.Linear(style, 2 * channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``[n, channels, h, w]`` and ``[n, style]`` to ``[n, channels, h, w]``."""
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(self.norm(x) * (1 + scale) + shift)
        return x + self.conv_2(functional.silu(self.conv_1(h)))


class StyledMap(nn.Module):
    """Style vector to a feature map of ``cells`` by ``cells``."""

    def __init__(
        self, style: int, width: int, blocks: int, cells: int, *, narrow: int = 32
    ) -> None:
        """Build with ``blocks`` styled blocks of ``width`` channels, from ``narrow`` channels."""
        super().__init__()
        self.cells, self.narrow = cells, narrow
        self.inlet = nn.Linear(style, narrow * cells * cells)
        self.widen = nn.Conv2d(narrow, width, 3, padding=1)
        self.blocks = nn.ModuleList(StyledBlock(width, style) for _ in range(blocks))
        self.norm = nn.GroupNorm(8, width)

    def forward(self, style: Tensor) -> Tensor:
        """``[n, style]`` to ``[n, width, cells, cells]``."""
        h = self.widen(self.inlet(style).view(-1, self.narrow, self.cells, self.cells))
        for block in self.blocks:
            h = block(h, style)
        return functional.silu(self.norm(h))


class Palette(nn.Module):
    """Mixes feature maps into output channels with weights computed from the style.

    As the modulated output layers of StyleGAN2 do (Karras et al., 2020, arXiv:1912.04958), so that
    a color is one decision and not one for each pixel.
    """

    def __init__(self, style: int, features: int, channels: int) -> None:
        """Build for ``features`` maps in and ``channels`` out."""
        super().__init__()
        self.features, self.channels = features, channels
        self.weights = nn.Linear(style, channels * (features + 1))

    def forward(self, h: Tensor, style: Tensor) -> Tensor:
        """``[n, features, h, w]`` and ``[n, style]`` to ``[n, channels, h, w]``."""
        weights = self.weights(style).view(-1, self.channels, self.features + 1)
        mixed = weights[:, :, 1:] @ h.flatten(2) + weights[:, :, :1]
        return mixed.view(-1, self.channels, h.shape[2], h.shape[3])


class StyledDecoder(nn.Module):
    """Style vector to an image: depth at 8x8, pixel shuffle, then a palette of the image's own."""

    def __init__(
        self,
        style: int,
        width: int,
        blocks: int,
        *,
        fine: int = 16,
        cells: int = 8,
        narrow: int = 8,
    ) -> None:
        """Build for images of ``4 * cells`` pixels, with ``fine`` feature maps at that size."""
        super().__init__()
        self.deep = StyledMap(style, width, blocks, cells, narrow=narrow)
        self.expand = nn.Conv2d(width, 16 * fine, 1)
        self.shuffle = nn.PixelShuffle(4)
        self.refine = nn.Conv2d(fine, fine, 3, padding=1)
        self.palette = Palette(style, fine, 3)

    def forward(self, style: Tensor) -> Tensor:
        """``[n, style]`` to ``[n, 3, 4 cells, 4 cells]``, unbounded."""
        h = self.shuffle(self.expand(self.deep(style)))
        h = functional.silu(h + self.refine(functional.silu(h)))
        return self.palette(h, style)


def gaussian_sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """``mean + std * noise``: the reparameterised draw (Kingma and Welling, 2013, eq. 4)."""
    return mean + torch.exp(0.5 * log_variance) * noise
