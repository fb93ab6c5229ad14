"""Likelihoods and their bounds, in nats, per image.

All functions reduce over everything but the leading (batch) dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)

Nats = TypeVar("Nats", float, Tensor)


def bits_per_dim(log_likelihood: Nats, dims: int) -> Nats:
    """``-log2 p(x) / d`` of an 8-bit image, from ``log p(x)`` in nats."""
    return -log_likelihood / (math.log(2) * dims)


def _sum(x: Tensor) -> Tensor:
    """Halves onto halves: torch's own order of additions can depend on how many rows there are."""
    x = x.flatten(1)
    while (width := x.shape[1]) > 1:
        half = (width + 1) // 2
        x = x[:, :half] + functional.pad(x[:, half:], (0, 2 * half - width))
    return x.squeeze(1)


def gaussian_log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """``log N(x; mean, exp(log_variance))`` with a diagonal covariance: ``[n]``."""
    scaled = (x - mean).square() * torch.exp(-log_variance)
    return _sum(-0.5 * (LOG_2PI + log_variance + scaled))


def standard_normal_log_density(z: Tensor) -> Tensor:
    """``log N(z; 0, I)``: ``[n]``."""
    return _sum(-0.5 * (LOG_2PI + z.square()))


def gaussian_entropy(log_variance: Tensor) -> Tensor:
    """Differential entropy of a diagonal Gaussian: ``[n]``."""
    return _sum(0.5 * (LOG_2PI + 1 + log_variance))


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mean, exp(log_variance)) || N(0, I))`` (Kingma and Welling, 2013, appendix B)."""
    return _sum(0.5 * (mean.square() + torch.exp(log_variance) - 1 - log_variance))


def discretized_logistic_log_likelihood(
    pixels: Tensor, mean: Tensor, scale: float | Tensor
) -> Tensor:
    """Log mass of 8-bit pixels under a logistic, integrated over each pixel's bin.

    Kingma et al. (2016), appendix B.2; Salimans et al. (2017), eq. 2: the bins of 0 and 255 reach
    to infinity, so the masses of the 256 values sum to one. The mass between bin edges l < u is
    ``S(u) S(-l) (1 - e^(l - u))`` with S the logistic sigmoid, which does not cancel in the tails.

    Args:
        pixels: ``[n, ...]`` whole numbers from 0 to 255.
        mean: ``[n, ...]`` the logistic's location, in pixel units.
        scale: the logistic's scale, in pixel units; a tensor while it is being learned.

    Returns:
        ``[n]`` nats.
    """
    upper, lower = (pixels + 0.5 - mean) / scale, (pixels - 0.5 - mean) / scale
    width = (
        torch.log(-torch.expm1(-1 / scale))
        if isinstance(scale, Tensor)
        else math.log1p(-math.exp(-1 / scale))
    )
    inside = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + width
    first, last = functional.logsigmoid(upper), functional.logsigmoid(-lower)
    return _sum(torch.where(pixels <= 0, first, torch.where(pixels >= 255, last, inside)))


def importance_weighted_bound(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The IWAE bound and its standard error (Burda et al., 2015, eq. 8).

    The error is the jackknife's (Efron, 1979; for this bound Nowozin, 2018, ICLR): how far the
    bound moves when each weight in turn is left out. Where weights are alike it is the coefficient
    of variation of the weights over ``sqrt(k)``, which the delta method gives; that one cannot tell
    more than 1 nat, its value when a single weight outweighs all others, however far they are
    apart.

    Args:
        log_weights: ``[n, k]``, ``log p(x, z) - log q(z | x)`` for k draws of z.

    Returns:
        ``[n]`` bounds, ``log mean exp`` of the weights, and ``[n]`` standard errors; NaN for k = 1.
    """
    count = log_weights.shape[1]
    bound = torch.logsumexp(log_weights, 1) - math.log(count)
    if count == 1:
        return bound, torch.full_like(bound, math.nan)
    without = _without_each(log_weights) - math.log(count - 1)
    spread = (without - without.mean(1, keepdim=True)).square().sum(1)
    return bound, torch.sqrt(spread * (count - 1) / count)


def _without_each(log_weights: Tensor) -> Tensor:
    """``log sum exp`` of all others, for each of ``[n, k]``: from the left, and from the right."""
    nothing = log_weights.new_full((len(log_weights), 1), -math.inf)
    before = torch.logcumsumexp(log_weights, 1)[:, :-1]
    after = torch.logcumsumexp(log_weights.flip(1), 1).flip(1)[:, 1:]
    return torch.logaddexp(torch.cat([nothing, before], 1), torch.cat([after, nothing], 1))


def diffusion_term(
    x_0: Tensor, denoised: Tensor, level: tuple[float, float], cleaner: tuple[float, float]
) -> Tensor:
    """The cost in nats of one step of the variational bound (Kingma et al., 2021, eq. 14).

    ``KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = (snr(s) - snr(t)) / 2 |x_0 - D(x_t)|^2``.

    Args:
        x_0: ``[n, ...]`` clean images.
        denoised: ``[n, ...]`` the denoiser's output at the noisier level t.
        level: ``(alpha, sigma)`` of t.
        cleaner: ``(alpha, sigma)`` of s.
    """
    gain = _snr(cleaner) - _snr(level)
    return 0.5 * gain * _sum((x_0 - denoised).square())


def diffusion_prior_term(x_0: Tensor, level: tuple[float, float]) -> Tensor:
    """``KL(q(x_T | x_0) || N(0, I))``: what the noisiest level still knows of the image."""
    alpha, sigma = level
    mean = alpha * x_0
    return kl_to_standard_normal(mean, torch.full_like(mean, 2 * math.log(sigma)))


def diffusion_last_term(dims: int, level: tuple[float, float]) -> float:
    """The expected cost of reading x_0 off the cleanest level.

    ``-log N(x_0; x / alpha, (sigma / alpha)^2)``:

    It is the entropy of that Gaussian, since x is x_0 with exactly this noise.
    """
    alpha, sigma = level
    return 0.5 * dims * (LOG_2PI + 1 + 2 * math.log(sigma / alpha))


def _snr(level: tuple[float, float]) -> float:
    alpha, sigma = level
    return (alpha / sigma) ** 2


def percentile_among(value: float, reference: Sequence[float]) -> float:
    """Where a value falls among evenly spaced quantiles of a reference set, in [0, 100]."""
    ranks = np.linspace(0.0, 100.0, len(reference))
    return float(np.interp(value, np.asarray(reference), ranks))
