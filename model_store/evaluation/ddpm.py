"""Sampling and the likelihood bound of a DDPM, just enough to measure one with.

The server has its own (`services/sampling`); these stand apart, so that a card's numbers depend on
nothing but this file. ``x_t = sqrt(s_t) x_0 + sqrt(1 - s_t) noise`` with ``s`` the cumulative
product of ``1 - beta`` (Ho et al., 2020, arXiv:2006.11239, eq. 4); networks predict the noise.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
ALL_OF_THE_FIRST = 4


def cosine_signal(times: int) -> Tensor:
    """``s`` of the cosine schedule, float32 ``[times]`` (Nichol and Dhariwal, 2021, eq. 17)."""

    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / times) / level(i / times), 0.999) for i in range(times)]
    return torch.cumprod(1 - torch.tensor(betas), dim=0)


def expected_image(network: nn.Module, x: Tensor, t: int, signal: Tensor) -> Tensor:
    """``x_0`` that the network expects behind ``x_t``."""
    noise = network(x, torch.full((len(x),), float(t)))
    image: Tensor = (x - (1 - signal[t]).sqrt() * noise) / signal[t].sqrt()
    return image


@torch.no_grad()
def sample(
    network: nn.Module, count: int, shape: tuple[int, ...], signal: Tensor, seed: int
) -> Tensor:
    """``[count, *shape]`` by ancestral sampling at every time (Ho et al., 2020, algorithm 2)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator)
    for t in range(len(signal) - 1, -1, -1):
        image = expected_image(network, x, t, signal)
        if t == 0:
            return image
        before, now = signal[t - 1], signal[t]
        ratio = now / before
        mean = (before.sqrt() * (1 - ratio) * image + ratio.sqrt() * (1 - before) * x) / (1 - now)
        spread = ((1 - before) / (1 - now) * (1 - ratio)).sqrt()
        x = mean + spread * torch.randn(x.shape, generator=generator)
    return x


@torch.no_grad()
def bound(network: nn.Module, x: Tensor, signal: Tensor, seed: int, *, every: int = 1) -> Tensor:
    """A lower bound on ``log p(x)`` in nats, ``[n]``, for dequantised images ``[n, ...]``.

    One draw of every term of Ho et al.'s eq. 5, each as Kingma et al. (2021, arXiv:2107.00630,
    eq. 14) write it, ``(snr(t - 1) - snr(t)) / 2 |x_0 - D(x_t)|^2``; the last step reads ``x_0``
    off the cleanest level by a Gaussian of exactly its noise. With ``every`` above 1, of each so
    many neighbouring terms one is drawn by its weight and stands for all of them, but for the
    first, which differ most: the same on average, sooner.
    """
    generator = torch.Generator().manual_seed(seed)
    snr = (signal / (1 - signal)).double()
    dims = x[0].numel()
    cost = torch.zeros(len(x), dtype=torch.float64)
    weights = snr[:-1] - snr[1:]
    count, alone = len(weights), min(ALL_OF_THE_FIRST * every, len(weights))
    firsts = [*range(alone), *range(alone, count, every), count]
    for first, after in pairwise(firsts):
        group = weights[first:after]
        t = 1 + first + int(torch.multinomial(group, 1, generator=generator))
        noised = signal[t].sqrt() * x + (1 - signal[t]).sqrt() * torch.randn(
            x.shape, generator=generator
        )
        error = (x - expected_image(network, noised, t, signal)).double().square().flatten(1).sum(1)
        cost += 0.5 * group.sum() * error
    kept = signal[-1].double()
    prior = 0.5 * (kept * x.double().square() + (1 - kept) - 1 - (1 - kept).log())
    last = 0.5 * dims * (LOG_2PI + 1 - float(snr[0].log()))
    return -(cost + prior.flatten(1).sum(1) + last)
