"""RealNVP (Dinh et al., 2017, arXiv:1605.08803) for small images, parallel in both directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.logit_flow import LogitFlow


def checkerboard(height: int, width: int, *, odd: bool) -> Tensor:
    """A ``[1, 1, h, w]`` mask of ones where row + column is even, or odd."""
    parity = torch.arange(height)[:, None] + torch.arange(width)[None]
    return ((parity % 2) == int(odd)).float().view(1, 1, height, width)


def half_of_channels(channels: int, *, second: bool) -> Tensor:
    """A ``[1, c, 1, 1]`` mask of ones on one half of the channels."""
    first = torch.arange(channels) < channels // 2
    return (first ^ second).float().view(1, channels, 1, 1)


class CouplingNetwork(nn.Module):
    """Log scale and shift from the masked input; zero at initialisation.

    A learned map is added to the features, for what a pixel holds depends on where it is.
    """

    def __init__(self, channels: int, edge: int, width: int, blocks: int, dropout: float) -> None:
        """Build with ``blocks`` residual blocks of ``width`` channels at ``edge`` pixels."""
        super().__init__()
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.place = nn.Parameter(0.1 * torch.randn(1, width, edge, edge))
        self.spatial = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.pointwise = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(blocks + 1))
        self.dropout = nn.Dropout(dropout)
        self.outlet = nn.Conv2d(width, 2 * channels, 3, padding=1)
        for parameter in self.outlet.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, c, h, w]`` to log scale in (-2, 2) and shift, each ``[n, c, h, w]``."""
        h = self.inlet(x) + self.place
        layers = zip(self.norms[:-1], self.spatial, self.pointwise, strict=True)
        for norm, spatial, pointwise in layers:
            inner = spatial(functional.silu(norm(h)))
            h = h + pointwise(self.dropout(functional.silu(inner)))
        log_scale, shift = self.outlet(functional.silu(self.norms[-1](h))).chunk(2, dim=1)
        return 2.0 * torch.tanh(log_scale / 2.0), shift


class AffineCoupling(nn.Module):
    """``z = m x + (1 - m) (x exp(s(m x)) + t(m x))``, equation 9 of the paper."""

    mask: Tensor

    def __init__(self, mask: Tensor, network: CouplingNetwork) -> None:
        """Build around a mask of ones where the input passes unchanged."""
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` to ``z`` of the same shape and the log-determinant ``[n]``."""
        log_scale, shift = self.network(x * self.mask)
        log_scale = log_scale * (1 - self.mask)
        z = x * torch.exp(log_scale) + shift * (1 - self.mask)
        return z, log_scale.sum(dim=(1, 2, 3))

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` back to ``x``."""
        log_scale, shift = self.network(z * self.mask)
        log_scale = log_scale * (1 - self.mask)
        return (z - shift * (1 - self.mask)) * torch.exp(-log_scale)


class Couplings(nn.Module):
    """Affine couplings one after another."""

    def __init__(self, layers: Iterable[AffineCoupling]) -> None:
        """Build from couplings in the order of the density direction."""
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` to ``z`` of the same shape and the log-determinant ``[n]``."""
        log_det = torch.zeros_like(x[:, 0, 0, 0])
        for layer in self.layers:
            x, term = layer(x)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` back to ``x``."""
        for layer in reversed(cast("list[AffineCoupling]", list(self.layers))):
            z = layer.inverse(z)
        return z


class CouplingFlow(LogitFlow):
    """Two scales: checkerboard couplings, squeeze, channel couplings, then half of it goes deeper.

    The input is an image in [0, 1]; the logit of ``alpha + (1 - 2 alpha) x`` and its
    log-determinant are part of the network (section 4.1 of the paper).
    """

    def __init__(
        self,
        channels: int = 1,
        side: int = 8,
        width: int = 32,
        blocks: int = 2,
        couplings: int = 4,
        dropout: float = 0.2,
        alpha: float = 0.05,
    ) -> None:
        """Build ``couplings`` couplings per mask kind and scale."""
        super().__init__(channels, side, alpha)
        half = side // 2

        def network(count: int, edge: int) -> CouplingNetwork:
            return CouplingNetwork(count, edge, width, blocks, dropout)

        odd = [bool(i % 2) for i in range(couplings)]
        self.fine = Couplings(
            AffineCoupling(checkerboard(side, side, odd=o), network(channels, side)) for o in odd
        )
        self.split = Couplings(
            AffineCoupling(half_of_channels(4 * channels, second=o), network(4 * channels, half))
            for o in odd
        )
        self.coarse = Couplings(
            AffineCoupling(checkerboard(half, half, odd=o), network(2 * channels, half))
            for o in odd
        )

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[n, c, side, side]`` in [0, 1] to ``z`` ``[n, c side^2]`` and ``[n]`` nats."""
        h, squash_term = self.squash(x)
        h, fine_term = self.fine(h)
        h, split_term = self.split(functional.pixel_unshuffle(h, 2))
        h, done = h.chunk(2, dim=1)
        h, coarse_term = self.coarse(h)
        log_det = squash_term + fine_term + split_term + coarse_term
        return torch.cat([h.flatten(1), done.flatten(1)], dim=1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` ``[n, c side^2]`` back to images ``[n, c, side, side]`` in [0, 1]."""
        edge = self.side // 2
        h, done = z.view(-1, 4 * self.channels, edge, edge).chunk(2, dim=1)
        h = self.split.inverse(torch.cat([self.coarse.inverse(h), done], dim=1))
        h = self.fine.inverse(functional.pixel_shuffle(h, 2))
        return self.unsquash(h)


class RealNVP(CouplingFlow):
    """The density direction: an image to its latent vector."""

    outputs: ClassVar[tuple[str, ...]] = ("z", "log_det")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `CouplingFlow.transform`."""
        return self.transform(x)


class RealNVPInverse(CouplingFlow):
    """The sampling direction, with the same weights."""

    outputs: ClassVar[tuple[str, ...]] = ("x",)

    def forward(self, z: Tensor) -> Tensor:
        """See `CouplingFlow.inverse`."""
        return self.inverse(z)
