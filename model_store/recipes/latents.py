"""Latents of the shapes autoencoder, encoded once: what the latent models train on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_store.recipes import shapes


class Standardizer(nn.Module):
    """Per-channel shift and scale that give latents zero mean and unit variance."""

    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int = 8) -> None:
        """Start as the identity; `fit` or a checkpoint sets the numbers."""
        super().__init__()
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def fit(self, latents: Tensor) -> None:
        """Measure ``[n, channels, h, w]``."""
        self.shift.copy_(latents.mean(dim=(0, 2, 3)))
        self.scale.copy_(latents.std(dim=(0, 2, 3)))

    def forward(self, latents: Tensor) -> Tensor:
        """Standardise."""
        return (latents - self.shift.view(1, -1, 1, 1)) / self.scale.view(1, -1, 1, 1)

    def inverse(self, standardized: Tensor) -> Tensor:
        """Undo `forward`."""
        return standardized * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


def encode_pool(encoder: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Posterior means ``[count, 8, 8, 8]`` of training images, and their factors ``[count, 6]``."""
    latents, factors = [], []
    with torch.no_grad():
        for images, drawn in shapes.pool(count, seed=4):
            latents.append(encoder(images)[0])
            factors.append(drawn)
    return torch.cat(latents), torch.cat(factors)
