"""The conditional GAN: both networks spend their depth at 8x8."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import StyledDecoder


class ConditionalGenerator(nn.Module):
    """Noise and a label to an image."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self, labels: int = 6, latent: int = 64, style: int = 128, width: int = 64, blocks: int = 2
    ) -> None:
        """Build for ``labels`` classes and noise of ``latent`` numbers."""
        super().__init__()
        self.label = nn.Embedding(labels, latent)
        self.mapping = nn.Sequential(
            nn.Linear(2 * latent, style), nn.SiLU(), nn.Linear(style, style), nn.SiLU()
        )
        self.synthesis = StyledDecoder(style, width, blocks)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) and int64 ``[n]`` to ``[n, 3, 32, 32]`` in [-1, 1]."""
        return torch.tanh(self.synthesis(self.mapping(torch.cat([z, self.label(label)], dim=1))))


class PlainBlock(nn.Module):
    """A residual block without normalisation, which would couple the rows a penalty keeps apart."""

    def __init__(self, channels: int) -> None:
        """Build as the identity."""
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to the same shape."""
        h = self.conv_1(functional.leaky_relu(x, 0.2))
        return x + self.conv_2(functional.leaky_relu(h, 0.2))


class ProjectionDiscriminator(nn.Module):
    """Realism of an image given its label (Miyato and Koyama, 2018, arXiv:1802.05637).

    A second head reads the label (Odena et al., 2017, arXiv:1610.09585). A score is no density.
    """

    outputs: ClassVar[tuple[str, ...]] = ("score", "label_logits")

    def __init__(self, labels: int = 6, width: int = 64, blocks: int = 2, hidden: int = 128) -> None:
        """Build with ``blocks`` residual blocks at 8x8 and one at 4x4."""
        super().__init__()
        self.patch = nn.Conv2d(3, width, 6, stride=4, padding=1)
        self.blocks = nn.Sequential(*(PlainBlock(width) for _ in range(blocks)))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.low = PlainBlock(2 * width)
        self.hidden = nn.Linear(2 * width * 16, hidden)
        self.score = nn.Linear(hidden, 1)
        self.label = nn.Embedding(labels, hidden)
        self.read = nn.Linear(hidden, labels)
        nn.init.normal_(self.label.weight, std=0.05)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, 32, 32]`` and int64 ``[n]`` to scores ``[n]`` and logits ``[n, labels]``."""
        h = self.low(self.down(self.blocks(self.patch(image))))
        h = self.hidden(functional.leaky_relu(h, 0.2).flatten(1))
        h = functional.leaky_relu(h, 0.2)
        score = self.score(h).squeeze(1) + (h * self.label(label)).sum(dim=1)
        return score, self.read(h)
