"""StyleGAN2's generator: noise to a style, a style to modulations, modulations to an image.

Karras et al., 2020, arXiv:1912.04958: a mapping network, demodulated convolutions, noise inputs and
an image summed over resolutions. Two parts are others, so that two processor cores can train it:
the learned constant at the bottom gave way to the placed Fourier features of StyleGAN3
(arXiv:2106.12423, section 3.2), and convolutions may see a single pixel (arXiv:2011.13775).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import PatchEncoder
from model_store.architectures.equalized import GAIN, SMALLEST, EqualizedLinear
from model_store.architectures.stylegan2_layers import (
    SLOPE,
    ModulatedConvolution,
    PlacedFourierFeatures,
    StyledLayer,
)

POSE = 4
"""Modulations of the placed features: centre x and y, logarithm of the scale, angle."""
FIRST_SCALE = 2.5
CHANNELS = (POSE, 28, 48, 48, 48, 48, 16)
"""Modulations by layer of `StyleSynthesis` as it is built without arguments."""


class StyleMapping(nn.Module):
    """Noise to an intermediate latent: the mapping network f."""

    outputs: ClassVar[tuple[str, ...]] = ("w",)

    def __init__(
        self,
        latent: int = 64,
        style: int = 32,
        width: int = 256,
        layers: int = 4,
        lr_multiplier: float = 0.1,
    ) -> None:
        """Build ``layers`` fully connected layers of ``width``, the last of ``style`` numbers."""
        super().__init__()
        sizes = [latent, *[width] * (layers - 1)]
        self.hidden = nn.ModuleList(
            EqualizedLinear(before, after, gain=1.0, lr_multiplier=lr_multiplier)
            for before, after in itertools.pairwise(sizes)
        )
        self.last = EqualizedLinear(width, style, gain=1.0, lr_multiplier=lr_multiplier)

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) to ``[n, style]``; the length of a row of z is ignored."""
        h = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + SMALLEST)
        for layer in self.hidden:
            h = functional.leaky_relu(layer(h), SLOPE) * GAIN
        w: Tensor = self.last(h)
        return w


class StyleModulations(nn.Module):
    """Latents to the modulations of all layers, concatenated: the affine layers A.

    What comes out is a point of style space (Wu et al., 2021, arXiv:2011.12799).
    """

    outputs: ClassVar[tuple[str, ...]] = ("s",)

    def __init__(self, style: int = 32, channels: Sequence[int] = CHANNELS) -> None:
        """Build one affine layer for each of the ``channels``; the first one is the pose."""
        super().__init__()
        affine = [
            EqualizedLinear(style, count, gain=1.0, bias=0.0 if i == 0 else 1.0)
            for i, count in enumerate(channels)
        ]
        with torch.no_grad():
            affine[0].weight.mul_(0.3)
            affine[0].bias.copy_(torch.tensor([0.0, 0.0, math.log(FIRST_SCALE), 0.0]))
        self.affine = nn.ModuleList(affine)

    def forward(self, w: Tensor) -> Tensor:
        """``[n, layers, style]``, one latent a layer, to ``[n, sum of channels]``."""
        return torch.cat([layer(w[:, i]) for i, layer in enumerate(self.affine)], dim=1)


class StyleSynthesis(nn.Module):
    """Modulations and noise to an image: the synthesis network g.

    ``layers`` styled layers work at half of the image's resolution and one at the full; each of
    the two resolutions adds its own red, green and blue.
    """

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        resolution: int = 64,
        width: int = 48,
        fine: int = 16,
        layers: int = 3,
        kernel: int = 1,
        bands: int = 12,
    ) -> None:
        """Build for images of ``resolution`` pixels.

        Args:
            resolution: height and width of the image, even.
            width: channels at half of the resolution.
            fine: channels at the full resolution.
            layers: styled layers at half of the resolution.
            kernel: side of the convolutions, 1 or 3 pixels.
            bands: Fourier features.
        """
        super().__init__()
        half = resolution // 2
        self.placed = PlacedFourierFeatures(half, bands)
        inputs = [self.placed.channels, *[width] * (layers - 1)]
        self.coarse = nn.ModuleList(StyledLayer(c, width, kernel=kernel) for c in inputs)
        self.coarse_color = ModulatedConvolution(width, 3, demodulate=False)
        self.fine = StyledLayer(width, fine, kernel=kernel, grow=2)
        self.fine_color = ModulatedConvolution(fine, 3, demodulate=False)
        self.color = nn.Parameter(torch.zeros(3))
        self.style_channels = [POSE, *inputs, width, width, fine]
        self.noise_sides = [*[half] * layers, resolution]

    @property
    def noise_size(self) -> int:
        """Numbers of noise an image takes, over all maps."""
        return sum(side * side for side in self.noise_sides)

    def forward(self, s: Tensor, noise: Tensor) -> Tensor:
        """``[n, sum of style_channels]`` and ``[n, noise_size]`` to an image in [-1, 1]."""
        return self.draw(s, noise).clamp(-1.0, 1.0)

    def draw(self, s: Tensor, noise: Tensor) -> Tensor:
        """The same image unbounded, as training needs it: a bound has no gradient beyond it."""
        pose, *styles, coarse_color, fine, fine_color = s.split(self.style_channels, dim=1)
        parts = noise.split([side * side for side in self.noise_sides], dim=1)
        maps = [
            part.reshape(-1, 1, side, side)
            for part, side in zip(parts, self.noise_sides, strict=True)
        ]
        h = self.placed(pose)
        for layer, style, grain in zip(self.coarse, styles, maps[:-1], strict=True):
            h = layer(h, style, grain)
        image = functional.interpolate(
            self.coarse_color(h, coarse_color),
            scale_factor=2.0,
            mode="bilinear",
            align_corners=False,
        )
        image = image + self.fine_color(self.fine(h, fine, maps[-1]), fine_color)
        drawn: Tensor = image + self.color[:, None, None]
        return drawn


class StyleEncoder(nn.Module):
    """An image to one latent a layer: a point of W+ (Abdal et al., 2019, arXiv:1904.03189)."""

    outputs: ClassVar[tuple[str, ...]] = ("w",)

    def __init__(
        self,
        layers: int = len(CHANNELS),
        style: int = 32,
        width: int = 64,
        blocks: int = 3,
        hidden: int = 192,
    ) -> None:
        """Build for square images of 64 pixels, seen at half their size and deep at 8x8.

        The parts before the latents are those of `FactorClassifier`, which can lend its weights.
        """
        super().__init__()
        self.trunk = PatchEncoder(3, width, blocks)
        self.norm = nn.GroupNorm(8, width)
        self.squeeze = nn.Conv2d(width, 24, 1)
        self.hidden = nn.Linear(24 * 64, hidden)
        self.shared = nn.Linear(hidden, style)
        self.apart = nn.Linear(hidden, layers * style)
        nn.init.zeros_(self.apart.weight)
        nn.init.zeros_(self.apart.bias)
        self.layers = layers

    def features(self, image: Tensor) -> Tensor:
        """Images of half the size, ``[n, 3, 32, 32]``, to ``[n, hidden]``."""
        h = functional.silu(self.norm(self.trunk(image)))
        return functional.silu(self.hidden(functional.silu(self.squeeze(h)).flatten(1)))

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 3, 64, 64]`` in [-1, 1] to ``[n, layers, style]``: one latent and changes."""
        h = self.features(functional.avg_pool2d(image, 2))
        shared = self.shared(h)
        return shared[:, None] + self.apart(h).view(-1, self.layers, shared.shape[1])
