"""NICE (Dinh et al., 2015, arXiv:1410.8516): additive couplings, which keep every volume."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from model_store.architectures.logit_flow import LogitFlow


class AdditiveCoupling(nn.Module):
    """``z_b = x_b + m(x_a)``, ``z_a = x_a`` (section 3.2 of the paper); its log-determinant is 0.

    ``a`` is every second pixel as on a checkerboard, ``b`` the others.
    """

    mask: Tensor

    def __init__(self, side: int, channels: int, width: int, dropout: float, *, odd: bool) -> None:
        """Build with two hidden layers of ``width`` units."""
        super().__init__()
        parity = (torch.arange(side)[:, None] + torch.arange(side)[None]) % 2
        mask = (parity == int(odd)).float().expand(channels, side, side).flatten()
        self.register_buffer("mask", mask, persistent=False)
        dims = channels * side * side
        self.network = nn.Sequential(
            nn.Linear(dims, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, dims),
        )
        for parameter in cast(nn.Linear, self.network[-1]).parameters():
            nn.init.zeros_(parameter)

    def translation(self, x: Tensor) -> Tensor:
        """What is added to ``[n, d]``: it depends on ``a`` and is zero there."""
        return self.network(x * self.mask) * (1 - self.mask)


class AdditiveFlow(LogitFlow):
    """Couplings between the logit and a diagonal scaling (section 3.3 of the paper)."""

    def __init__(
        self,
        channels: int = 1,
        side: int = 8,
        width: int = 64,
        couplings: int = 4,
        dropout: float = 0.2,
        alpha: float = 0.05,
    ) -> None:
        """Build ``couplings`` couplings, of either half in turn."""
        super().__init__(channels, side, alpha)
        self.couplings = nn.ModuleList(
            AdditiveCoupling(side, channels, width, dropout, odd=bool(i % 2))
            for i in range(couplings)
        )
        self.scaling = nn.Parameter(torch.zeros(channels * side * side))

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[n, c, side, side]`` in [0, 1] to ``z`` ``[n, c side^2]`` and ``[n]`` nats.

        Of the log-determinant, the couplings add nothing: the logit and the scaling make it.
        """
        h, log_det = self.squash(x)
        y = h.flatten(1)
        for coupling in cast("list[AdditiveCoupling]", list(self.couplings)):
            y = y + coupling.translation(y)
        return y * torch.exp(self.scaling), log_det + self.scaling.sum()

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` ``[n, c side^2]`` back to images ``[n, c, side, side]`` in [0, 1]."""
        y = z * torch.exp(-self.scaling)
        for coupling in reversed(cast("list[AdditiveCoupling]", list(self.couplings))):
            y = y - coupling.translation(y)
        return self.unsquash(y.view(-1, self.channels, self.side, self.side))


class NICE(AdditiveFlow):
    """The density direction: an image to its latent vector."""

    outputs: ClassVar[tuple[str, ...]] = ("z", "log_det")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `AdditiveFlow.transform`."""
        return self.transform(x)


class NICEInverse(AdditiveFlow):
    """The sampling direction, with the same weights."""

    outputs: ClassVar[tuple[str, ...]] = ("x",)

    def forward(self, z: Tensor) -> Tensor:
        """See `AdditiveFlow.inverse`."""
        return self.inverse(z)
