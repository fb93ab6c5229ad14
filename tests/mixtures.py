"""Gaussian mixtures in the plane: their draws, densities and denoisers have closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Clean points around some centres, each a Gaussian of the same deviation.

    Attributes:
        centers: ``[k, 2]``.
        weights: ``[k]``, of sum 1.
        std: of every dimension around its centre.
    """

    centers: Tensor
    weights: Tensor
    std: float

    def draws(self, count: int, seed: int) -> Tensor:
        """Clean points, ``[count, 2]``."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn((count, 2), generator=generator, dtype=torch.float64)
        return self.centers[which] + self.std * noise

    def log_density(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Of ``alpha x_0 + sigma noise``, for points ``[..., 2]``."""
        variance = alpha**2 * self.std**2 + sigma**2
        logits = self._logits(self._away(x, alpha), variance)
        return torch.logsumexp(logits, -1) - math.log(2 * math.pi * variance)

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """``E[x_0 | x]``: each centre's own, by its share of the density."""
        variance = alpha**2 * self.std**2 + sigma**2
        away = self._away(x, alpha)
        shares = torch.softmax(self._logits(away, variance), -1)
        means = self.centers + alpha * self.std**2 / variance * away
        return (shares.unsqueeze(-1) * means).sum(-2)

    def _away(self, x: Tensor, alpha: float) -> Tensor:
        return x.unsqueeze(-2) - alpha * self.centers

    def _logits(self, away: Tensor, variance: float) -> Tensor:
        return self.weights.log() - away.square().sum(-1) / (2 * variance)


THREE = Mixture(
    centers=torch.tensor([[0.9, 0.4], [-0.8, 0.7], [0.1, -0.9]], dtype=torch.float64),
    weights=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    std=0.15,
)
"""The mixture that samplers draw from and whose density the ODE estimates."""
