"""The variational autoencoder with a vector latent: linear paths beside deep ones at 8x8."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import PatchEncoder, StyledDecoder


class VectorEncoder(nn.Module):
    """Image to a diagonal Gaussian over a latent vector."""

    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    def __init__(
        self, latent: int = 64, width: int = 64, blocks: int = 3, hidden: int = 256, side: int = 32
    ) -> None:
        """Build for images of ``side`` pixels."""
        super().__init__()
        self.linear = nn.Linear(3 * side * side, latent)
        self.deep = PatchEncoder(3, width, blocks)
        self.norm = nn.GroupNorm(8, width)
        self.squeeze = nn.Conv2d(width, 24, 1)
        self.hidden = nn.Linear(24 * (side // 4) ** 2, hidden)
        self.head = nn.Linear(hidden, 2 * latent)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, 32, 32]`` in [-1, 1] to mean and log variance, each ``[n, latent]``."""
        features = self.squeeze(functional.silu(self.norm(self.deep(image))))
        hidden = functional.silu(self.hidden(functional.silu(features.flatten(1))))
        mean, log_variance = self.head(hidden).chunk(2, dim=1)
        return self.linear(image.flatten(1)) + mean, (log_variance - 3.0).clamp(-12.0, 4.0)


class VectorDecoder(nn.Module):
    """Latent vector to image."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self, latent: int = 64, width: int = 64, blocks: int = 3, style: int = 192, side: int = 32
    ) -> None:
        """Build for images of ``side`` pixels."""
        super().__init__()
        self.side = side
        self.linear = nn.Linear(latent, 3 * side * side)
        self.mapping = nn.Sequential(
            nn.Linear(latent, style), nn.SiLU(), nn.Linear(style, style), nn.SiLU()
        )
        self.synthesis = StyledDecoder(style, width, blocks, cells=side // 4)
        nn.init.zeros_(self.synthesis.palette.weights.weight)
        nn.init.zeros_(self.synthesis.palette.weights.bias)

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latent]`` to an image ``[n, 3, 32, 32]``, nominally in [-1, 1]."""
        linear = self.linear(z).view(-1, 3, self.side, self.side)
        return linear + self.synthesis(self.mapping(z))
