"""Generators and critics of strided convolutions, for images of 8x8.

After Radford et al., 2015, arXiv:1511.06434 (DCGAN), section 3: no pooling and no hidden linear
layers, rectifiers and batch normalisation in the generator, leaky rectifiers in its opponent.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

SIDE = 8
SLOPE = 0.2


class StridedGenerator(nn.Module):
    """Noise to an image: each fractionally strided convolution doubles the side."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self, latent: int = 32, width: int = 28, channels: int = 1, *, normalized: bool = True
    ) -> None:
        """Build for noise of ``latent`` numbers; ``width`` features stand behind each pixel.

        One whose batch normalisations are folded into the convolutions is not ``normalized``
        (`model_store.export.folding`).
        """
        super().__init__()

        def normalization(features: int) -> nn.Module:
            return nn.BatchNorm2d(features) if normalized else nn.Identity()

        bias = not normalized
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(latent, 3 * width, 2, bias=bias),
            normalization(3 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(3 * width, 2 * width, 4, stride=2, padding=1, bias=bias),
            normalization(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=bias),
            normalization(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) to ``[n, channels, 8, 8]`` in [-1, 1]."""
        image: Tensor = self.layers(z[:, :, None, None])
        return image


class StridedFeatures(nn.Sequential):
    """Image to ``16 * width`` features; each strided convolution halves the side."""

    def __init__(self, width: int, channels: int = 1, *, normalized: bool = False) -> None:
        """Build; ``normalized`` puts batch normalisation behind the inner convolutions."""
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(SLOPE)]
        for before, after in ((width, 2 * width), (2 * width, 4 * width)):
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not normalized))
            if normalized:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(SLOPE))
        super().__init__(*layers, nn.Flatten())
        self.features = 16 * width


class StridedCritic(nn.Module):
    """Image to a score of how real it looks: higher is more so. A score is no density."""

    outputs: ClassVar[tuple[str, ...]] = ("realness",)

    def __init__(self, width: int = 24, channels: int = 1, *, normalized: bool = False) -> None:
        """Build; a critic under a gradient penalty must not be ``normalized`` over the batch."""
        super().__init__()
        self.trunk = StridedFeatures(width, channels, normalized=normalized)
        self.score = nn.Linear(self.trunk.features, 1)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, channels, 8, 8]`` in [-1, 1] to ``[n]``."""
        score: Tensor = self.score(self.trunk(image)).squeeze(1)
        return score


class StridedEncoder(nn.Module):
    """Image to a Gaussian over the latent."""

    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    def __init__(self, latent: int = 32, width: int = 24, channels: int = 1) -> None:
        """Build for a latent of ``latent`` numbers."""
        super().__init__()
        self.trunk = StridedFeatures(width, channels)
        self.head = nn.Linear(self.trunk.features, 2 * latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, channels, 8, 8]`` in [-1, 1] to mean and log variance, each ``[n, latent]``."""
        mean, log_variance = self.head(self.trunk(image)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 4.0)
