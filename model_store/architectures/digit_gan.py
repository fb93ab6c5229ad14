"""Generators and critics of strided convolutions, for images of 8x8.

After Radford et al., 2015, arXiv:1511.06434 (DCGAN), section 3: no pooling and no hidden linear
layers, rectifiers and batch normalisation in the generator, leaky rectifiers in its opponent.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

SIDE = 8
SLOPE = 0.2
VARIANCES = (-6.0, 2.0)
"""Least and largest log variance that a network may give."""


class StridedGenerator(nn.Module):
    """Noise to an image: each fractionally strided convolution doubles the side."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, latent: int = 32, width: int = 28, channels: int = 1) -> None:
        """Build for noise of ``latent`` numbers; ``width`` features stand behind each pixel."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(latent, 3 * width, 2, bias=False),
            nn.BatchNorm2d(3 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(3 * width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) to ``[n, channels, 8, 8]`` in [-1, 1]."""
        image: Tensor = self.layers(z[:, :, None, None])
        return image


class CodedGenerator(nn.Module):
    """Noise, a category and continuous codes to an image (Chen et al., 2016, arXiv:1606.03657)."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        latent: int = 24,
        categories: int = 10,
        continuous: int = 2,
        width: int = 28,
        channels: int = 1,
    ) -> None:
        """Build for ``categories`` categories and ``continuous`` codes in [-1, 1]."""
        super().__init__()
        self.categories = categories
        self.generator = StridedGenerator(latent + categories + continuous, width, channels)

    def forward(self, z: Tensor, category: Tensor, continuous: Tensor) -> Tensor:
        """``[n, latent]``, int64 ``[n]`` and ``[n, continuous]`` to ``[n, channels, 8, 8]``."""
        every = torch.arange(self.categories, device=category.device)
        chosen = (category[:, None] == every).to(z.dtype)
        image: Tensor = self.generator(torch.cat([z, chosen, continuous], dim=1))
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


class CodeRecognition(nn.Module):
    """InfoGAN's Q: which codes an image was made from, as a distribution (section 5)."""

    outputs: ClassVar[tuple[str, ...]] = (
        "category_logits",
        "continuous_mean",
        "continuous_log_variance",
    )

    def __init__(
        self,
        categories: int = 10,
        continuous: int = 2,
        width: int = 24,
        hidden: int = 64,
        channels: int = 1,
    ) -> None:
        """Build for ``categories`` categories and ``continuous`` codes in [-1, 1]."""
        super().__init__()
        self.trunk = StridedFeatures(width, channels)
        self.hidden = nn.Sequential(nn.Linear(self.trunk.features, hidden), nn.LeakyReLU(SLOPE))
        self.category = nn.Linear(hidden, categories)
        self.continuous = nn.Linear(hidden, 2 * continuous)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[n, channels, 8, 8]`` to ``[n, categories]`` and twice ``[n, continuous]``."""
        return self.read(self.trunk(image))

    def read(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` gives, from the trunk's features."""
        hidden = self.hidden(features)
        mean, log_variance = self.continuous(hidden).chunk(2, dim=1)
        return self.category(hidden), mean, log_variance.clamp(*VARIANCES)


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
