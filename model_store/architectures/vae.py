"""The variational autoencoder with a vector latent: linear paths beside deep ones at 8x8."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import PatchEncoder, StyledDecoder


class VectorEncoder(nn.Module):
    """Image to a diagonal Gaussian over a latent vector; the linear path sees half resolution."""

    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    def __init__(
        self,
        latent: int = 32,
        width: int = 48,
        blocks: int = 2,
        squeeze: int = 6,
        hidden: int = 128,
        side: int = 32,
    ) -> None:
        """Build for images of ``side`` pixels."""
        super().__init__()
        self.linear = nn.Linear(3 * (side // 2) ** 2, latent)
        self.deep = PatchEncoder(3, width, blocks)
        self.norm = nn.GroupNorm(8, width)
        self.squeeze = nn.Conv2d(width, squeeze, 1)
        self.hidden = nn.Linear(squeeze * (side // 4) ** 2, hidden)
        self.head = nn.Linear(hidden, 2 * latent)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, 32, 32]`` in [-1, 1] to mean and log variance, each ``[n, latent]``."""
        features = self.squeeze(functional.silu(self.norm(self.deep(image))))
        hidden = functional.silu(self.hidden(functional.silu(features.flatten(1))))
        mean, log_variance = self.head(hidden).chunk(2, dim=1)
        linear = self.linear(functional.avg_pool2d(image, 2).flatten(1))
        return linear + mean, (log_variance - 3.0).clamp(-12.0, 4.0)


class VectorDecoder(nn.Module):
    """Latent vector to image; the linear path paints at half resolution."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self, latent: int = 32, width: int = 48, blocks: int = 3, style: int = 96, side: int = 32
    ) -> None:
        """Build for images of ``side`` pixels."""
        super().__init__()
        self.coarse_side = side // 2
        self.linear = nn.Linear(latent, 3 * self.coarse_side**2)
        self.mapping = nn.Sequential(
            nn.Linear(latent, style), nn.SiLU(), nn.Linear(style, style), nn.SiLU()
        )
        self.synthesis = StyledDecoder(style, width, blocks, cells=side // 4)
        for parameter in self.synthesis.palette.parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latent]`` to an image ``[n, 3, 32, 32]``, nominally in [-1, 1]."""
        coarse = self.linear(z).view(-1, 3, self.coarse_side, self.coarse_side)
        linear = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return linear + self.synthesis(self.mapping(z))
