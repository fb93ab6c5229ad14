"""A hierarchical variational autoencoder of small images, with top-down inference.

The ladder of Sonderby et al., 2016 (arXiv:1602.02282): the way down from the top level to the image
is one for generation and inference, and on the way an encoder's features, found from the image
upwards, correct each level's prior. As in Vahdat and Kautz, 2020 (arXiv:2007.03898, section 3.2),
a posterior is told relative to its prior.

Every latent here is in units of its prior: where the levels above made the prior N(mu, sigma^2),
``z`` means ``mu + sigma z``. So the prior of all levels together is N(0, I), and the divergence of
a level is that of a Gaussian from N(0, I).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

LEAST_LOG_VARIANCE, LARGEST_LOG_VARIANCE = -8.0, 2.0
LARGEST_LOG_SCALE = 3.0


class Block(nn.Module):
    """Two linear layers around a skip."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        """Build; the skip is a projection where the sizes differ."""
        super().__init__()
        self.skip = nn.Identity() if inputs == width else nn.Linear(inputs, width)
        self.deep = nn.Sequential(
            nn.Linear(inputs, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs]`` to ``[n, width]``."""
        return nn.functional.silu(self.skip(x) + self.deep(x))


class Level(nn.Module):
    """One stochastic level on the way down."""

    def __init__(self, latents: int, width: int, dropout: float) -> None:
        """Build for ``latents`` numbers between states of ``width``."""
        super().__init__()
        self.prior = nn.Linear(width, 2 * latents)
        self.posterior = nn.Linear(2 * width, 2 * latents)
        self.down = Block(width + latents, width, dropout)
        for layer in (self.prior, self.posterior):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def seen(self, state: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior in units of the prior: mean and log variance, each ``[n, latents]``."""
        mean, log_variance = self.posterior(torch.cat([state, features], 1)).chunk(2, 1)
        return mean, log_variance.clamp(LEAST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """The state below: ``[n, width]`` and ``[n, latents]`` to ``[n, width]``."""
        mean, log_scale = self.prior(state).chunk(2, 1)
        scale = torch.exp(log_scale.clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE))
        below: Tensor = self.down(torch.cat([state, mean + scale * z], 1))
        return below


class Ladder(nn.Module):
    """All that both directions share: the levels, what is seen from below, and the last step."""

    def __init__(
        self,
        latents: Sequence[int] = (4, 8, 16),
        width: int = 96,
        dropout: float = 0.1,
        channels: int = 1,
        side: int = 8,
    ) -> None:
        """Build for levels of these sizes, from the top down."""
        super().__init__()
        self.latents, self.width, self.shape = list(latents), width, (channels, side, side)
        pixels = channels * side * side
        self.top = nn.Parameter(torch.zeros(width))
        self.levels = nn.ModuleList(Level(count, width, dropout) for count in latents)
        self.up = nn.ModuleList(
            Block(width if i else pixels, width, dropout) for i in range(len(self.latents))
        )
        self.image = nn.Linear(width, pixels)

    def infer(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A draw from the posterior, and the Gaussian of each level that it was drawn from.

        Args:
            image: ``[n, c, side, side]`` in [-1, 1].
            noise: ``[n, sum of latents]`` from N(0, I), the top level first; zeros follow the mean
                of every level.

        Returns:
            The draw, its mean and its log variance in units of the prior, each like ``noise``. The
            Gaussian of a level is the one given the draw of those above.
        """
        features, below = [], image.flatten(1)
        for block in self.up:
            below = block(below)
            features.append(below)
        state = self.top.expand(image.shape[0], -1)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        given = noise.split(self.latents, 1)
        for level, told, unit in zip(self.levels, reversed(features), given, strict=True):
            mean, log_variance = level.seen(state, told)  # type: ignore[operator]  # a Level
            z = mean + torch.exp(0.5 * log_variance) * unit
            parts.append((z, mean, log_variance))
            state = level(state, z)
        z, mean, log_variance = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return z, mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``[n, sum of latents]`` in units of the prior to ``[n, c, side, side]``."""
        state = self.top.expand(z.shape[0], -1)
        for level, part in zip(self.levels, z.split(self.latents, 1), strict=True):
            state = level(state, part)
        image: Tensor = self.image(state).view(-1, *self.shape)
        return image


class HierarchicalEncoder(Ladder):
    """Image and noise to a draw from the posterior."""

    outputs: ClassVar[tuple[str, ...]] = ("z", "mean", "log_variance")

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Ladder.infer`."""
        return self.infer(image, noise)


class HierarchicalDecoder(Ladder):
    """Latents to image, with the same weights."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def forward(self, z: Tensor) -> Tensor:
        """See `Ladder.decode`."""
        return self.decode(z)
