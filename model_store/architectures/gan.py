"""The conditional GAN: noise to a code, a code to an image, and who trains the two.

A shape that may stand anywhere, at any angle and in any size is one shape in coordinates of its
own. So the drawing first decides where those coordinates lie, then goes pixel by pixel in them.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import Palette, ResidualBlock

FREQUENCY_SPREAD = 2.0
FIRST_SCALE = 2.5
FARTHEST = 4.0
LABEL_WIDTH = 32


class PlacedFeatures(nn.Module):
    """Coordinates and Fourier features in a frame that the style moves, turns and scales.

    The input layer of StyleGAN3 (Karras et al., 2021, arXiv:2106.12423, section 3.2) with a scale
    beside its rotation and translation, and with plain coordinates beside its waves.
    """

    frequencies: Tensor
    grid: Tensor

    def __init__(self, style: int, bands: int = 12, side: int = 32) -> None:
        """Build for images of ``side`` pixels, with ``bands`` fixed random frequencies."""
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        frequencies = torch.randn(bands, 2, generator=generator) * FREQUENCY_SPREAD
        axis = (torch.arange(side) + 0.5) * 2 / side - 1
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flip(0)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("grid", grid.reshape(2, -1))
        self.pose = nn.Linear(style, 4)
        nn.init.normal_(self.pose.weight, std=0.05)
        with torch.no_grad():
            self.pose.bias.copy_(torch.tensor([0.0, 0.0, math.log(FIRST_SCALE), 0.0]))
        self.side = side
        self.channels = 2 * bands + 3

    def forward(self, style: Tensor) -> Tensor:
        """``[n, style]`` to ``[n, channels, side, side]``."""
        pose = self.pose(style)
        center, scale, angle = pose[:, :2, None], pose[:, 2].exp(), pose[:, 3]
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)
        place = (turn * scale[:, None, None]) @ (self.grid - center)
        phase = self.frequencies @ place
        radius = (place.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
        features = [
            place.clamp(-FARTHEST, FARTHEST),
            radius.clamp(max=FARTHEST),
            phase.sin(),
            phase.cos(),
        ]
        return torch.cat(features, dim=1).view(-1, self.channels, self.side, self.side)


class StyledPixels(nn.Module):
    """One layer of a network that sees a pixel at a time, scaled and shifted by the style."""

    def __init__(self, channels: int, out_channels: int, style: int) -> None:
        """Build for ``channels`` features in and ``out_channels`` out."""
        super().__init__()
        self.mix = nn.Conv2d(channels, out_channels, 1)
        self.style = nn.Linear(style, 2 * out_channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``[n, channels, h, w]`` and ``[n, style]`` to ``[n, out_channels, h, w]``."""
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return functional.leaky_relu(self.mix(x) * (1 + scale) + shift, 0.2)


class Drawing(nn.Module):
    """A code and a label to an image, each pixel computed from its place in the object's frame.

    Without any convolution over pixels (Anokhin et al., 2021, arXiv:2011.13775), so that an edge
    is as sharp as its function, wherever it lies.
    """

    def __init__(
        self, labels: int, code: int, style: int, width: int, layers: int, fine: int
    ) -> None:
        """Build; the arguments are those of `ConditionalGenerator`."""
        super().__init__()
        self.label = nn.Embedding(labels, LABEL_WIDTH)
        self.mapping = nn.Sequential(
            nn.Linear(code + LABEL_WIDTH, style),
            nn.SiLU(),
            nn.Linear(style, style),
            nn.SiLU(),
            nn.Linear(style, style),
            nn.SiLU(),
        )
        self.placed = PlacedFeatures(style)
        channels = [self.placed.channels, *[width] * layers, fine]
        self.layers = nn.ModuleList(
            StyledPixels(before, after, style) for before, after in itertools.pairwise(channels)
        )
        self.palette = Palette(style, fine, 3)

    def forward(self, code: Tensor, label: Tensor) -> Tensor:
        """``[n, code]`` and int64 ``[n]`` to ``[n, 3, 32, 32]``, nominally in [-1, 1]."""
        style = self.mapping(torch.cat([code, self.label(label)], dim=1))
        h = self.placed(style)
        for layer in self.layers:
            h = layer(h, style)
        image: Tensor = self.palette(h, style)
        return image


def perceptron(inputs: int, width: int) -> nn.Sequential:
    """Three layers of ``width`` features with leaky rectifiers."""
    layers: list[nn.Module] = []
    for features in (inputs, width, width):
        layers += [nn.Linear(features, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


class CodeGenerator(nn.Module):
    """Noise and a label to a standardised code: the player of the game."""

    def __init__(self, labels: int, latent: int, code: int, width: int) -> None:
        """Build; the arguments are those of `ConditionalGenerator`."""
        super().__init__()
        self.label = nn.Embedding(labels, LABEL_WIDTH)
        self.deep = perceptron(latent + LABEL_WIDTH, width)
        self.code = nn.Linear(width, code)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) and int64 ``[n]`` to ``[n, code]``."""
        code: Tensor = self.code(self.deep(torch.cat([z, self.label(label)], dim=1)))
        return code


class ConditionalGenerator(nn.Module):
    """Noise and a label to an image: the code generator, then the drawing."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        labels: int = 6,
        latent: int = 64,
        code: int = 16,
        deep: int = 256,
        style: int = 128,
        width: int = 48,
        layers: int = 3,
        fine: int = 16,
    ) -> None:
        """Build for ``labels`` classes and noise of ``latent`` numbers.

        Args:
            labels: number of labels.
            latent: numbers of noise.
            code: numbers that say how a scene looks, beside its label.
            deep: width of the code generator.
            style: width of the style vector.
            width: features of a pixel.
            layers: layers of that width.
            fine: features that the palette mixes into red, green and blue.
        """
        super().__init__()
        self.generator = CodeGenerator(labels, latent, code, deep)
        self.register_buffer("mean", torch.zeros(code))
        self.register_buffer("std", torch.ones(code))
        self.drawing = Drawing(labels, code, style, width, layers, fine)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) and int64 ``[n]`` to ``[n, 3, 32, 32]`` in [-1, 1]."""
        code = self.generator(z, label) * self.std + self.mean
        return self.drawing(code, label).clamp(-1.0, 1.0)


class CodeEncoder(nn.Module):
    """Image and label to a Gaussian over the drawing's code; only training needs it."""

    def __init__(self, labels: int, code: int, width: int = 64, hidden: int = 192) -> None:
        """Build for ``labels`` classes: overlapping patches, then two residual blocks at 8x8."""
        super().__init__()
        self.inlet = nn.Conv2d(3, width, 8, stride=4, padding=2)
        self.blocks = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.norm = nn.GroupNorm(8, width)
        self.squeeze = nn.Conv2d(width, 24, 1)
        self.label = nn.Embedding(labels, 24 * 64)
        self.hidden = nn.Linear(24 * 64, hidden)
        self.head = nn.Linear(hidden, 2 * code)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, 32, 32]`` and int64 ``[n]`` to mean and log variance, each ``[n, code]``."""
        h = functional.silu(self.norm(self.blocks(self.inlet(image))))
        h = functional.silu(self.squeeze(h)).flatten(1) + 0.1 * self.label(label)
        mean, log_variance = self.head(functional.silu(self.hidden(h))).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 4.0)


class CodeDiscriminator(nn.Module):
    """Realism of a code given its label (Miyato and Koyama, 2018, arXiv:1802.05637).

    A score is no density.
    """

    def __init__(self, labels: int, code: int, width: int = 256) -> None:
        """Build for ``labels`` classes and standardised codes of ``code`` numbers."""
        super().__init__()
        self.given = nn.Embedding(labels, LABEL_WIDTH)
        self.deep = perceptron(code + LABEL_WIDTH, width)
        self.score = nn.Linear(width, 1)
        self.label = nn.Embedding(labels, width)
        nn.init.normal_(self.label.weight, std=0.05)

    def forward(self, code: Tensor, label: Tensor) -> Tensor:
        """``[n, code]`` and int64 ``[n]`` to scores ``[n]``."""
        h = self.deep(torch.cat([code, self.given(label)], dim=1))
        score: Tensor = self.score(h).squeeze(1) + (h * self.label(label)).sum(dim=1)
        return score
