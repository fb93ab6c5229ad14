"""Densities in closed form: Gaussians, mixtures of them, and Bernoulli pixels.

Each is two modules, one for the density and one for samples, which hold what their direction needs:
nothing is inverted when a model is served. Numbers are stored in single precision and computed with
in double. A naive Bayes classifier is one component for each class.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

Covariance = Literal["full", "diagonal"]

LOG_2PI = math.log(2 * math.pi)


def factor_shape(components: int, dims: int, covariance: Covariance) -> tuple[int, ...]:
    """Shape of a factor of every component's covariance: a matrix each, or its diagonal.

    Raises:
        ValueError: there is no such covariance.
    """
    if covariance not in ("full", "diagonal"):
        raise ValueError(f"covariance is 'full' or 'diagonal', not '{covariance}'")
    return (components, dims) if covariance == "diagonal" else (components, dims, dims)


class MixtureDensity(nn.Module):
    """``log N(x; m_k, L_k L_k^T)`` of every component k.

    ``whitening`` holds ``L_k^-1``, lower triangular, or its diagonal.
    """

    outputs: ClassVar[tuple[str, ...]] = ("log_density",)

    def __init__(
        self,
        components: int = 2,
        channels: int = 1,
        side: int = 8,
        covariance: Covariance = "full",
    ) -> None:
        """Build standard normal components for images ``[n, channels, side, side]``."""
        super().__init__()
        dims = channels * side * side
        self.mean = nn.Parameter(torch.zeros(components, dims))
        unit = torch.ones(components, dims)
        shape = factor_shape(components, dims, covariance)
        self.whitening = nn.Parameter(unit if len(shape) == 2 else torch.diag_embed(unit))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, c, h, w]`` to nats ``[n, components]`` in double precision."""
        return self.log_density(self.whitened(x))

    def whitened(self, x: Tensor) -> Tensor:
        """``L_k^-1 (x - m_k)`` ``[n, components, d]``."""
        centered = x.double().flatten(1)[:, None] - self.mean.double()
        whitening = self.whitening.double()
        if whitening.dim() == 2:
            return centered * whitening
        return torch.einsum("kij,nkj->nki", whitening.tril(), centered)

    def log_density(self, z: Tensor) -> Tensor:
        """Nats ``[n, components]`` of what `whitened` gave."""
        whitening = self.whitening.double()
        diagonal = whitening if whitening.dim() == 2 else whitening.diagonal(dim1=1, dim2=2)
        return diagonal.log().sum(dim=1) - 0.5 * (LOG_2PI + z.square()).sum(dim=2)


class GaussianDensity(MixtureDensity):
    """One component, and the image's place in the standard normal: ``z = L^-1 (x - m)``."""

    outputs: ClassVar[tuple[str, ...]] = ("log_density", "z")

    def __init__(self, channels: int = 1, side: int = 8, covariance: Covariance = "full") -> None:
        """See `MixtureDensity`."""
        super().__init__(1, channels, side, covariance)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override] # and z
        """Images ``[n, c, h, w]`` to nats ``[n, 1]`` and ``z`` ``[n, d]``."""
        z = self.whitened(x)
        return self.log_density(z), z[:, 0]


class MixtureSampler(nn.Module):
    """``x = m_k + L_k z``; ``factor`` holds ``L_k``, lower triangular, or its diagonal."""

    outputs: ClassVar[tuple[str, ...]] = ("x",)

    def __init__(
        self,
        components: int = 2,
        channels: int = 1,
        side: int = 8,
        covariance: Covariance = "full",
    ) -> None:
        """Build standard normal components for images ``[n, channels, side, side]``."""
        super().__init__()
        self.shape = (channels, side, side)
        dims = channels * side * side
        self.mean = nn.Parameter(torch.zeros(components, dims))
        unit = torch.ones(components, dims)
        shape = factor_shape(components, dims, covariance)
        self.factor = nn.Parameter(unit if len(shape) == 2 else torch.diag_embed(unit))

    def forward(self, z: Tensor, component: Tensor) -> Tensor:
        """Standard normal ``[n, d]`` and components int64 ``[n]`` to images ``[n, c, h, w]``."""
        factor, z = self.factor.double()[component], z.double()
        spread = factor * z if factor.dim() == 2 else torch.einsum("nij,nj->ni", factor.tril(), z)
        return (self.mean.double()[component] + spread).view(-1, *self.shape)


class BernoulliDensity(nn.Module):
    """Log mass of the image with every pixel made 1 from ``threshold`` on and 0 below it.

    ``logits`` holds the log odds of a 1, for every component and pixel.
    """

    outputs: ClassVar[tuple[str, ...]] = ("log_density",)

    def __init__(
        self, components: int = 2, channels: int = 1, side: int = 8, threshold: float = 0.5
    ) -> None:
        """Build even odds for images ``[n, channels, side, side]`` in [0, 1]."""
        super().__init__()
        self.threshold = threshold
        self.logits = nn.Parameter(torch.zeros(components, channels * side * side))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, c, h, w]`` in [0, 1] to nats ``[n, components]`` in double precision."""
        ones = 2 * (x.flatten(1) >= self.threshold).double()[:, None] - 1
        return nn.functional.logsigmoid(ones * self.logits.double()).sum(dim=2)


class BernoulliSampler(nn.Module):
    """A pixel is 1 where standard normal noise falls among the share of 1s."""

    outputs: ClassVar[tuple[str, ...]] = ("x",)

    def __init__(self, components: int = 2, channels: int = 1, side: int = 8) -> None:
        """Build even odds for images ``[n, channels, side, side]``."""
        super().__init__()
        self.shape = (channels, side, side)
        self.logits = nn.Parameter(torch.zeros(components, channels * side * side))

    def forward(self, z: Tensor, component: Tensor) -> Tensor:
        """Standard normal ``[n, d]`` and components int64 ``[n]`` to images of zeros and ones."""
        share = torch.sigmoid(self.logits.double()[component])
        return (torch.special.ndtr(z.double()) < share).double().view(-1, *self.shape)
