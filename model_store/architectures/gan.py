"""The conditional GAN: it works on the latent maps of a trained autoencoder, at 8x8."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.autoencoder import SpatialDecoder
from model_store.architectures.blocks import Palette, ResidualBlock, StyledMap


class LatentGenerator(nn.Module):
    """Noise and a label to a standardised latent map."""

    def __init__(
        self,
        labels: int = 6,
        latent: int = 64,
        channels: int = 8,
        style: int = 128,
        width: int = 64,
        blocks: int = 2,
    ) -> None:
        """Build for ``labels`` classes and noise of ``latent`` numbers."""
        super().__init__()
        self.label = nn.Embedding(labels, latent)
        self.mapping = nn.Sequential(
            nn.Linear(2 * latent, style), nn.SiLU(), nn.Linear(style, style), nn.SiLU()
        )
        self.deep = StyledMap(style, width, blocks, cells=8)
        self.palette = Palette(style, width, channels)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) and int64 ``[n]`` to ``[n, channels, 8, 8]``."""
        style = self.mapping(torch.cat([z, self.label(label)], dim=1))
        return self.palette(self.deep(style), style)


class ConditionalGenerator(nn.Module):
    """Noise and a label to an image: the latent generator, then the autoencoder's decoder."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        labels: int = 6,
        latent: int = 64,
        channels: int = 8,
        style: int = 128,
        width: int = 64,
        blocks: int = 2,
        decoder_width: int = 64,
        decoder_blocks: int = 4,
    ) -> None:
        """Build for ``labels`` classes and noise of ``latent`` numbers."""
        super().__init__()
        self.generator = LatentGenerator(labels, latent, channels, style, width, blocks)
        self.decoder = SpatialDecoder(3, channels, decoder_width, decoder_blocks)
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) and int64 ``[n]`` to ``[n, 3, 32, 32]`` in [-1, 1]."""
        standardized = self.generator(z, label)
        latents = standardized * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)
        return self.decoder(latents).clamp(-1.0, 1.0)


class ProjectionDiscriminator(nn.Module):
    """Realism of a latent map given its label (Miyato and Koyama, 2018, arXiv:1802.05637).

    A second head reads the factors of the scene (after Odena et al., 2017, arXiv:1610.09585), and
    the spread within groups of rows is a feature (Karras et al., 2018, arXiv:1710.10196, section
    3), so that too little variety is seen. A score is no density.
    """

    group: ClassVar[int] = 8

    weights: Tensor

    def __init__(
        self, weights: Tensor, labels: int, readings: int, width: int = 64, hidden: int = 192
    ) -> None:
        """Build with three residual blocks at 8x8.

        Args:
            weights: how much each latent channel counts, ``[channels]``.
            labels: number of labels.
            readings: number of logits of the second head.
            width: channels at 8x8.
            hidden: features before the heads.
        """
        super().__init__()
        self.register_buffer("weights", weights.view(1, -1, 1, 1))
        self.inlet = nn.Conv2d(weights.numel(), width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(3)))
        self.norm = nn.GroupNorm(8, width)
        self.squeeze = nn.Conv2d(width, 24, 1)
        self.hidden = nn.Linear(24 * 64 + 1, hidden)
        self.score = nn.Linear(hidden, 1)
        self.label = nn.Embedding(labels, hidden)
        self.read = nn.Linear(hidden, readings)
        nn.init.normal_(self.label.weight, std=0.05)

    def forward(self, latents: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, channels, 8, 8]``, ``n`` a multiple of the group, to scores ``[n]`` and logits."""
        h = functional.silu(self.norm(self.blocks(self.inlet(latents * self.weights))))
        h = functional.silu(self.squeeze(h)).flatten(1)
        groups = h.view(-1, self.group, h.shape[1])
        spread = (groups.var(dim=1) + 1e-6).sqrt().mean(dim=1, keepdim=True)
        h = torch.cat([h, spread.repeat_interleave(self.group, dim=0)], dim=1)
        h = functional.silu(self.hidden(h))
        score = self.score(h).squeeze(1) + (h * self.label(label)).sum(dim=1)
        return score, self.read(h)
