"""A small convolutional variational autoencoder, after the one that beta-VAEs are studied with.

Burgess et al., 2018, "Understanding disentangling in beta-VAE" (arXiv:1804.03599), appendix A, for
images of 32 pixels: strided convolutions, then linear layers, and the same backwards.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

CELLS = 4
"""Side of the feature map between the convolutions and the linear layers."""


class ConvolutionalEncoder(nn.Module):
    """Image to a diagonal Gaussian over a latent vector."""

    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    def __init__(self, latent: int = 10, width: int = 32, hidden: int = 128) -> None:
        """Build for a latent of ``latent`` numbers; the last convolution has ``2 * width``."""
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.hidden = nn.Sequential(nn.Linear(2 * width * CELLS**2, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, 2 * latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, 3, 32, 32]`` in [-1, 1] to mean and log variance, each ``[n, latent]``."""
        mean, log_variance = self.head(self.hidden(self.convolutions(image).flatten(1))).chunk(2, 1)
        return mean, log_variance.clamp(-12.0, 4.0)


class ConvolutionalDecoder(nn.Module):
    """Latent vector to image."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, latent: int = 10, width: int = 32, hidden: int = 128) -> None:
        """Build the mirror image of `ConvolutionalEncoder`."""
        super().__init__()
        self.features = 2 * width
        self.hidden = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.features * CELLS**2),
            nn.ReLU(),
        )
        self.convolutions = nn.Sequential(
            nn.ConvTranspose2d(self.features, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latent]`` to an image ``[n, 3, 32, 32]``, nominally in [-1, 1]."""
        cells = self.hidden(z).view(-1, self.features, CELLS, CELLS)
        image: Tensor = self.convolutions(cells)
        return image
