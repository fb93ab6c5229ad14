"""A GAN that grows: first images of 8x8, then of 16x16, then of 32x32.

Karras et al., 2018, arXiv:1710.10196. Most of the width is at 8x8, and there is one convolution
where the paper has two at the finer resolutions: two processor cores are to train it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.equalized import EqualizedConvolution, EqualizedLinear, pixel_norm

SIDES = (8, 16, 32)
"""Sides of the images that it makes on its way, the last one included."""
FIRST_SIDE = 4
COLORS = 3
SLOPE = 0.2


def rectified(x: Tensor) -> Tensor:
    """A leaky rectifier."""
    return functional.leaky_relu(x, SLOPE)


def doubled(x: Tensor) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c, 2h, 2w]``, each pixel four times."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def faded(below: Tensor, image: Tensor, alpha: float) -> Tensor:
    """An image on its way in: ``1 - alpha`` of the one of half its size is left (figure 2)."""
    return torch.lerp(doubled(below), image, alpha)


class GrownBlock(nn.Module):
    """What one resolution adds: the features doubled in size, then convolutions."""

    def __init__(self, channels: int, out_channels: int, *, layers: int = 1) -> None:
        """Build ``layers`` convolutions, the first from ``channels`` features."""
        super().__init__()
        widths = [channels, *[out_channels] * layers]
        self.layers = nn.ModuleList(
            EqualizedConvolution(before, after, 3) for before, after in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, out_channels, 2h, 2w]``."""
        h = doubled(x)
        for layer in self.layers:
            h = pixel_norm(rectified(layer(h)))
        return h


class ProgressiveGenerator(nn.Module):
    """Noise to an image at each resolution of the growth."""

    outputs: ClassVar[tuple[str, ...]] = ("image_8", "image_16", "image")

    def __init__(self, latent: int = 64, channels: Sequence[int] = (64, 48, 24, 12)) -> None:
        """Build.

        Args:
            latent: numbers of noise.
            channels: features at 4x4 and at each of `SIDES`.

        Raises:
            ValueError: there are not as many widths as resolutions.
        """
        super().__init__()
        if len(channels) != len(SIDES) + 1:
            raise ValueError(f"channels has {len(channels)} widths; there are {len(SIDES) + 1}")
        self.first = channels[0]
        self.inlet = EqualizedLinear(latent, channels[0] * FIRST_SIDE**2)
        self.seed = EqualizedConvolution(channels[0], channels[0], 3)
        self.grown = nn.ModuleList(
            GrownBlock(before, after, layers=1 if stage else 2)
            for stage, (before, after) in enumerate(itertools.pairwise(channels))
        )
        self.to_rgb = nn.ModuleList(
            EqualizedConvolution(width, COLORS, 1, gain=1.0) for width in channels[1:]
        )

    def features(self, z: Tensor, stages: int = len(SIDES)) -> list[Tensor]:
        """``[n, latent]`` to what stands behind the image at each of the first ``stages`` sides."""
        h = self.inlet(pixel_norm(z)).view(-1, self.first, FIRST_SIDE, FIRST_SIDE)
        h = pixel_norm(rectified(self.seed(pixel_norm(rectified(h)))))
        found = []
        for block in list(self.grown)[:stages]:
            h = block(h)
            found.append(h)
        return found

    def images(self, z: Tensor, stages: int = len(SIDES)) -> tuple[Tensor, ...]:
        """``[n, latent]`` from N(0, I) to the images at the first ``stages`` sides."""
        given = zip(self.to_rgb, self.features(z, stages), strict=False)
        return tuple(layer(h) for layer, h in given)

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        """``[n, latent]`` from N(0, I) to ``[n, 3, s, s]`` for each of `SIDES`."""
        return self.images(z)


class ProgressiveDiscriminator(nn.Module):
    """Image to a score, the generator's mirror image; only training needs it."""

    def __init__(self, channels: Sequence[int] = (64, 48, 24, 12)) -> None:
        """Build for features at 4x4 and at each of `SIDES`."""
        super().__init__()
        self.from_rgb = nn.ModuleList(
            EqualizedConvolution(COLORS, width, 1) for width in channels[1:]
        )
        self.shrunk = nn.ModuleList(
            EqualizedConvolution(after, before, 3) for before, after in itertools.pairwise(channels)
        )
        self.deep = EqualizedConvolution(channels[1], channels[1], 3)
        self.last = EqualizedConvolution(channels[0] + 1, channels[0], 3)
        self.hidden = EqualizedLinear(channels[0] * FIRST_SIDE**2, channels[0])
        self.score = EqualizedLinear(channels[0], 1, gain=1.0)

    def forward(self, image: Tensor, stage: int, alpha: float = 1.0) -> Tensor:
        """Scores ``[n]`` of a batch; a row's score depends on how much the batch varies.

        Args:
            image: ``[n, 3, s, s]`` with ``s`` the side of the stage.
            stage: index into `SIDES`.
            alpha: how much of the finest layers has faded in; the rest sees the image shrunk.
        """
        h = rectified(self.from_rgb[stage](image))
        for index in range(stage, -1, -1):
            if index == 0:
                h = rectified(self.deep(h))
            h = functional.avg_pool2d(rectified(self.shrunk[index](h)), 2)
            if index == stage and alpha < 1.0 and stage > 0:
                small = self.from_rgb[stage - 1](functional.avg_pool2d(image, 2))
                h = torch.lerp(rectified(small), h, alpha)
        h = rectified(self.last(torch.cat([h, variation(h)], dim=1)))
        score: Tensor = self.score(rectified(self.hidden(h.flatten(1)))).squeeze(1)
        return score


def variation(h: Tensor) -> Tensor:
    """The minibatch's standard deviation as one more map, ``[n, 1, h, w]`` (section 3)."""
    spread = (h.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return spread.expand(h.shape[0], 1, *h.shape[2:])
