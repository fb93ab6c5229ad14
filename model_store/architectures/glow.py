"""Glow (Kingma and Dhariwal, 2018, arXiv:1807.03039) for small images, parallel both ways."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.logit_flow import LogitFlow
from model_store.architectures.realnvp import CouplingNetwork


def unit_triangular_inverse(strict: Tensor) -> Tensor:
    """``(I + N)^-1`` of a strictly triangular ``N`` ``[c, c]``, by products alone.

    ``(I - N)(I + N^2)(I + N^4)...`` ends, for ``N^c = 0``. A graph of such products needs no
    solver, and a runtime folds it into one constant.
    """
    channels = len(strict)
    identity = torch.eye(channels, dtype=strict.dtype, device=strict.device)
    inverse, power = identity - strict, strict @ strict
    for _ in range((channels - 1).bit_length() - 1):
        inverse = inverse @ (identity + power)
        power = power @ power
    return inverse


class ActNorm(nn.Module):
    """``z = (x + bias) exp(log_scale)`` by channel (section 3.1), set by a first batch."""

    def __init__(self, channels: int) -> None:
        """Build as the identity."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def initialize(self, x: Tensor) -> None:
        """Give every channel of ``[n, c, h, w]`` mean 0 and variance 1."""
        with torch.no_grad():
            self.bias.copy_(-x.mean(dim=(0, 2, 3), keepdim=True))
            self.log_scale.copy_(-x.std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-3).log())


class InvertibleConvolution(nn.Module):
    """A 1x1 convolution by ``W = P L (U + diag(s))`` (section 3.2, equation 10).

    P is a fixed permutation; L is lower triangular with ones, U strictly upper triangular.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        """Build from a random rotation."""
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_size = nn.Parameter(diagonal.abs().log())

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        size = self.sign * torch.exp(self.log_size)
        return self.lower.tril(-1), self.upper.triu(1), size

    def weight(self) -> Tensor:
        """``W`` ``[c, c]``."""
        lower, upper, size = self._factors()
        identity = torch.eye(len(size), dtype=size.dtype, device=size.device)
        return self.permutation @ (lower + identity) @ (upper + torch.diag(size))

    def inverse_weight(self) -> Tensor:
        """``W^-1`` ``[c, c]``: ``(U + diag(s))^-1 = (I + diag(1/s) U)^-1 diag(1/s)``."""
        lower, upper, size = self._factors()
        upper_inverse = unit_triangular_inverse(upper / size[:, None]) / size[None, :]
        return upper_inverse @ unit_triangular_inverse(lower) @ self.permutation.T


class GlowStep(nn.Module):
    """ActNorm, an invertible 1x1 convolution, and an affine coupling of one half by the other."""

    def __init__(self, channels: int, edge: int, width: int, blocks: int, dropout: float) -> None:
        """Build for ``[n, channels, edge, edge]``."""
        super().__init__()
        self.norm = ActNorm(channels)
        self.mix = InvertibleConvolution(channels)
        self.network = CouplingNetwork(channels // 2, edge, width, blocks, dropout)
        self.edge = edge

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` to ``z`` of the same shape and the log-determinant ``[n]``."""
        x = (x + self.norm.bias) * torch.exp(self.norm.log_scale)
        constant = self.edge**2 * (self.norm.log_scale.sum() + self.mix.log_size.sum())
        kept, moved = functional.conv2d(x, self.mix.weight()[:, :, None, None]).chunk(2, dim=1)
        log_scale, shift = self.network(kept)
        moved = moved * torch.exp(log_scale) + shift
        return torch.cat([kept, moved], dim=1), log_scale.sum(dim=(1, 2, 3)) + constant

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` back to ``x``."""
        kept, moved = z.chunk(2, dim=1)
        log_scale, shift = self.network(kept)
        x = torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1)
        x = functional.conv2d(x, self.mix.inverse_weight()[:, :, None, None])
        return x * torch.exp(-self.norm.log_scale) - self.norm.bias


class GlowSteps(nn.Module):
    """Steps one after another."""

    def __init__(
        self, steps: int, channels: int, edge: int, width: int, blocks: int, dropout: float
    ) -> None:
        """Build ``steps`` steps; see `GlowStep`."""
        super().__init__()
        self.layers = nn.ModuleList(
            GlowStep(channels, edge, width, blocks, dropout) for _ in range(steps)
        )

    def _steps(self) -> list[GlowStep]:
        return cast("list[GlowStep]", list(self.layers))

    def initialize(self, x: Tensor) -> Tensor:
        """Set every ActNorm by what reaches it."""
        for step in self._steps():
            step.norm.initialize(x)
            x, _ = step(x)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` to ``z`` of the same shape and the log-determinant ``[n]``."""
        log_det = torch.zeros_like(x[:, 0, 0, 0])
        for step in self._steps():
            x, term = step(x)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` back to ``x``."""
        for step in reversed(self._steps()):
            z = step.inverse(z)
        return z


class MultiScaleFlow(LogitFlow):
    """Squeeze, steps, half of it is done; squeeze, steps.

    The half that is done is standardised by what goes on (the learned prior of the paper's code),
    so that all of ``z`` is standard normal.
    """

    def __init__(
        self,
        channels: int = 1,
        side: int = 8,
        width: int = 16,
        blocks: int = 1,
        steps: int = 4,
        dropout: float = 0.2,
        alpha: float = 0.05,
    ) -> None:
        """Build ``steps`` steps at each of the two scales."""
        super().__init__(channels, side, alpha)
        self.fine = GlowSteps(steps, 4 * channels, side // 2, width, blocks, dropout)
        self.prior = CouplingNetwork(2 * channels, side // 2, width, blocks, dropout)
        self.coarse = GlowSteps(steps, 8 * channels, side // 4, width, blocks, dropout)

    def initialize(self, x: Tensor) -> None:
        """Set every ActNorm by a batch of images ``[n, c, side, side]`` in [0, 1]."""
        h = self.fine.initialize(functional.pixel_unshuffle(self.squash(x)[0], 2))
        self.coarse.initialize(functional.pixel_unshuffle(h.chunk(2, dim=1)[0], 2))

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[n, c, side, side]`` in [0, 1] to ``z`` ``[n, c side^2]`` and ``[n]`` nats."""
        h, squash_term = self.squash(x)
        h, fine_term = self.fine(functional.pixel_unshuffle(h, 2))
        h, done = h.chunk(2, dim=1)
        log_scale, shift = self.prior(h)
        done = done * torch.exp(log_scale) + shift
        h, coarse_term = self.coarse(functional.pixel_unshuffle(h, 2))
        log_det = squash_term + fine_term + log_scale.sum(dim=(1, 2, 3)) + coarse_term
        return torch.cat([h.flatten(1), done.flatten(1)], dim=1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` ``[n, c side^2]`` back to images ``[n, c, side, side]`` in [0, 1]."""
        h, done = z.chunk(2, dim=1)
        edge = self.side // 2
        h = self.coarse.inverse(h.view(-1, 8 * self.channels, edge // 2, edge // 2))
        h = functional.pixel_shuffle(h, 2)
        log_scale, shift = self.prior(h)
        done = (done.view(-1, 2 * self.channels, edge, edge) - shift) * torch.exp(-log_scale)
        h = self.fine.inverse(torch.cat([h, done], dim=1))
        return self.unsquash(functional.pixel_shuffle(h, 2))


class Glow(MultiScaleFlow):
    """The density direction: an image to its latent vector."""

    outputs: ClassVar[tuple[str, ...]] = ("z", "log_det")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `MultiScaleFlow.transform`."""
        return self.transform(x)


class GlowInverse(MultiScaleFlow):
    """The sampling direction, with the same weights."""

    outputs: ClassVar[tuple[str, ...]] = ("x",)

    def forward(self, z: Tensor) -> Tensor:
        """See `MultiScaleFlow.inverse`."""
        return self.inverse(z)
