"""What the flows of images begin with: the standardised logit of every pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LogitFlow(nn.Module):
    """The logit of ``alpha + (1 - 2 alpha) x``, then ``(logit - shift) exp(-log_scale)``.

    Section 4.1 of Dinh et al. (2017, arXiv:1605.08803): a flow on the whole line would put mass
    outside of [0, 1]. ``shift`` and ``log_scale`` have one value for each pixel.
    """

    def __init__(self, channels: int = 1, side: int = 8, alpha: float = 0.05) -> None:
        """Build for images ``[n, channels, side, side]`` in [0, 1]."""
        super().__init__()
        self.channels, self.side, self.alpha = channels, side, alpha
        self.shift = nn.Parameter(torch.zeros(1, channels, side, side))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, side, side))

    def squash(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The standardised logit of ``x`` and its log-determinant ``[n]``."""
        h, terms = self.squash_terms(x)
        return h, terms.sum(dim=(1, 2, 3))

    def squash_terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `squash`, with the log-determinant's share of each pixel."""
        squashed = self.alpha + (1 - 2 * self.alpha) * x
        logit = torch.log(squashed) - torch.log1p(-squashed)
        slope = math.log(1 - 2 * self.alpha) - torch.log(squashed) - torch.log1p(-squashed)
        return (logit - self.shift) * torch.exp(-self.log_scale), slope - self.log_scale

    def unsquash(self, h: Tensor) -> Tensor:
        """Back to images in [0, 1]; what lies outside of it is clamped."""
        squashed = torch.sigmoid(h * torch.exp(self.log_scale) + self.shift)
        return ((squashed - self.alpha) / (1 - 2 * self.alpha)).clamp(0.0, 1.0)
