"""The latent denoiser: a small transformer over a latent map, conditioned on caption words.

Adaptive layer norm with zero-initialised gates follows DiT (Peebles and Xie, 2023, section 3.2,
arXiv:2212.09748); the words also stand in the sequence, so that attention can bind them to places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time in [0, 1], then two linear layers."""

    frequencies: Tensor

    def __init__(self, width: int, waves: int = 64) -> None:
        """Build for embeddings of ``width``; ``waves`` is the number of frequencies."""
        super().__init__()
        steps = torch.arange(waves) / waves
        frequencies = 1000.0 * torch.exp(-math.log(10_000.0) * steps)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * waves, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """``[n]`` in [0, 1] to ``[n, width]``."""
        angles = t[:, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        first: nn.Parameter = next(self.layers.parameters())
        return self.layers(waves.to(first.dtype))


class AdaptiveBlock(nn.Module):
    """Self-attention and a feed-forward layer, each scaled, shifted and gated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        """Build with a feed-forward layer of four times ``width``."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def attend(self, x: Tensor) -> Tensor:
        """Multi-head self-attention over ``[n, length, width]``."""
        count, length, width = x.shape
        parts = self.query_key_value(x).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.attention_out(mixed.transpose(1, 2).reshape(count, length, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``[n, length, width]`` and ``[n, width]`` to ``[n, length, width]``."""
        modulation = self.modulation(functional.silu(condition)).unsqueeze(1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, dim=2)
        x = x + gate_1 * self.attend(self.norm(x) * (1 + scale_1) + shift_1)
        h = self.expand(self.norm(x) * (1 + scale_2) + shift_2)
        return x + gate_2 * self.contract(functional.gelu(h, approximate="tanh"))


class CaptionTransformer(nn.Module):
    """Noisy latent map, time and words to a velocity, for rectified flow."""

    outputs: ClassVar[tuple[str, ...]] = ("velocity",)

    offsets: Tensor

    def __init__(
        self,
        values: Sequence[int] = (6, 8, 4, 3, 3, 3),
        latent_channels: int = 8,
        side: int = 8,
        width: int = 96,
        depth: int = 5,
        heads: int = 4,
    ) -> None:
        """Build for caption slots of ``values[i]`` words each, beside the null word."""
        super().__init__()
        sizes = torch.tensor([count + 1 for count in values])
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        self.words = nn.Embedding(int(sizes.sum()), width)
        self.time = TimeEmbedding(width)
        self.inlet = nn.Linear(latent_channels, width)
        self.place = nn.Parameter(0.2 * torch.randn(1, side * side, width))
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, latent_channels)
        for layer in (self.modulation, self.outlet):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Velocity ``noise - data`` at ``x = (1 - t) data + t noise``.

        Args:
            x: standardised latents ``[n, latent_channels, side, side]``.
            t: ``[n]`` in [0, 1], 1 being pure noise.
            tokens: int64 ``[n, slots]``; 0 says nothing about a slot, ``1 + i`` names its value i.

        Returns:
            ``[n, latent_channels, side, side]``.
        """
        count, channels, height, width = x.shape
        words = self.words(tokens + self.offsets)
        condition = self.time(t) + words.mean(dim=1)
        pixels = self.inlet(x.flatten(2).transpose(1, 2)) + self.place
        h = torch.cat([words, pixels], dim=1)
        for block in self.blocks:
            h = block(h, condition)
        h = h[:, words.shape[1] :]
        shift, scale = self.modulation(functional.silu(condition)).unsqueeze(1).chunk(2, dim=2)
        velocity = self.outlet(self.norm(h) * (1 + scale) + shift)
        return velocity.transpose(1, 2).reshape(count, channels, height, width)
