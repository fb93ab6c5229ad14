"""The spatial autoencoder under the latent diffusion model."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from model_store.architectures.blocks import PatchDecoder, PatchEncoder


class SpatialEncoder(nn.Module):
    """Image to a Gaussian over a latent map at a quarter of the resolution.

    A linear path runs beside the deep one, so that training starts at what principal components of
    the patches reconstruct instead of at noise.
    """

    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    def __init__(
        self, channels: int = 3, latent_channels: int = 8, width: int = 64, blocks: int = 3
    ) -> None:
        """Build with ``blocks`` residual blocks of ``width`` channels."""
        super().__init__()
        self.linear = nn.Conv2d(channels, latent_channels, 4, stride=4)
        self.deep = PatchEncoder(channels, width, blocks)
        self.head = nn.Conv2d(width, 2 * latent_channels, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, c, h, w]`` in [-1, 1] to mean and log variance, each ``[n, latents, h/4, w/4]``."""
        mean, log_variance = self.head(self.deep(image)).chunk(2, dim=1)
        return self.linear(image) + mean, (log_variance - 6.0).clamp(-12.0, 2.0)


class SpatialDecoder(nn.Module):
    """Latent map to image: a linear path beside the deep one."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self, channels: int = 3, latent_channels: int = 8, width: int = 64, blocks: int = 4
    ) -> None:
        """Build with ``blocks`` residual blocks of ``width`` channels."""
        super().__init__()
        self.linear = nn.ConvTranspose2d(latent_channels, channels, 4, stride=4)
        self.inlet = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.deep = PatchDecoder(width, channels, blocks)
        nn.init.zeros_(self.deep.refine.weight)

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latents, h, w]`` to an image ``[n, c, 4h, 4w]``, nominally in [-1, 1]."""
        return self.linear(z) + self.deep(self.inlet(z))
