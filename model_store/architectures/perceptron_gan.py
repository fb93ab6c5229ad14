"""A GAN's networks in linear layers, for images of few pixels.

At 8x8 a convolution saves little and costs much: these take a tenth of a strided one's time, and a
GAN of digits wants many short steps more than it wants features that move with a stroke.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

SLOPE = 0.2
VARIANCES = (-3.0, 2.0)
"""Least and largest log variance that a network may give.

A reader that may be surer than that of a code in [-1, 1] drowns what the game says of the image.
"""


class PerceptronGenerator(nn.Module):
    """Noise to an image, with batch normalisation before each rectifier."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        latent: int = 32,
        hidden: Sequence[int] = (192, 256),
        channels: int = 1,
        side: int = 8,
        *,
        normalized: bool = True,
    ) -> None:
        """Build for noise of ``latent`` numbers, with hidden layers of these sizes.

        One whose batch normalisations are folded into the linear layers is not ``normalized``
        (`model_store.export.folding`).
        """
        super().__init__()
        self.shape = (channels, side, side)
        sizes = (latent, *hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            normalization = nn.BatchNorm1d(after) if normalized else nn.Identity()
            layers += [nn.Linear(before, after, bias=not normalized), normalization, nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], channels * side**2), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """``[n, latent]`` from N(0, I) to ``[n, channels, side, side]`` in [-1, 1]."""
        image: Tensor = self.layers(z).view(-1, *self.shape)
        return image


class CodedGenerator(nn.Module):
    """Noise, a category and continuous codes to an image (Chen et al., 2016, arXiv:1606.03657)."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        latent: int = 24,
        categories: int = 10,
        continuous: int = 2,
        hidden: Sequence[int] = (192, 256),
        channels: int = 1,
        *,
        normalized: bool = True,
    ) -> None:
        """Build for ``categories`` categories and ``continuous`` codes in [-1, 1]."""
        super().__init__()
        self.categories = categories
        told = latent + categories + continuous
        self.generator = PerceptronGenerator(told, hidden, channels, normalized=normalized)

    def forward(self, z: Tensor, category: Tensor, continuous: Tensor) -> Tensor:
        """``[n, latent]``, int64 ``[n]`` and ``[n, continuous]`` to ``[n, channels, 8, 8]``."""
        every = torch.arange(self.categories, device=category.device)
        chosen = (category[:, None] == every).to(z.dtype)
        image: Tensor = self.generator(torch.cat([z, chosen, continuous], dim=1))
        return image


class PerceptronFeatures(nn.Sequential):
    """Image to ``features`` numbers; ``normalized`` puts layer normalisation in each layer.

    Layer normalisation looks at one image at a time, so a gradient penalty on each image's own
    gradient keeps its meaning (Gulrajani et al., 2017, arXiv:1704.00028, section 4).
    """

    def __init__(
        self, hidden: Sequence[int], channels: int = 1, side: int = 8, *, normalized: bool = False
    ) -> None:
        """Build with hidden layers of these sizes."""
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise((channels * side**2, *hidden)):
            layers.append(nn.Linear(before, after))
            if normalized:
                layers.append(nn.LayerNorm(after))
            layers.append(nn.LeakyReLU(SLOPE))
        super().__init__(*layers)
        self.features = hidden[-1]


class PerceptronCritic(nn.Module):
    """Image to a score of how real it looks: higher is more so. A score is no density."""

    outputs: ClassVar[tuple[str, ...]] = ("realness",)

    def __init__(
        self, hidden: Sequence[int] = (256, 192), channels: int = 1, side: int = 8
    ) -> None:
        """Build with hidden layers of these sizes."""
        super().__init__()
        self.trunk = PerceptronFeatures(hidden, channels, side, normalized=True)
        self.score = nn.Linear(self.trunk.features, 1)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, channels, side, side]`` in [-1, 1] to ``[n]``."""
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
        trunk: Sequence[int] = (256, 192),
        hidden: int = 64,
        channels: int = 1,
    ) -> None:
        """Build for ``categories`` categories and ``continuous`` codes in [-1, 1]."""
        super().__init__()
        self.trunk = PerceptronFeatures(trunk, channels)
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
