"""Likelihoods in bits per dimension, and the baselines that a density model has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from services.sampling import bounds


def flow_log_likelihood(flow: nn.Module, x: Tensor) -> Tensor:
    """Nats of the 8-bit images: ``log p(x) - d ln 256`` for ``x`` ``[n, c, h, w]`` in [0, 1].

    The network maps ``x`` to ``z`` and a log-determinant; the change of variables
    gives ``log p(x)``.
    """
    z, log_det = flow(x)
    nats: Tensor = bounds.standard_normal_log_density(z) + log_det - x[0].numel() * math.log(256)
    return nats


def bits_per_dim(log_likelihood: Tensor, dimensions: int = 64) -> Tensor:
    """``-log2 p / d`` from nats of 8-bit images."""
    return bounds.bits_per_dim(log_likelihood, dimensions)


def histogram_bits_per_dim(train: Tensor, test: Tensor, *, levels: int, prior: float) -> float:
    """An independent histogram for each pixel, smoothed by ``prior`` counts a level.

    Args:
        train: int64 levels ``[n, d]`` in ``0..levels - 1``.
        test: the same for the images to score.
        levels: how many levels there are.
        prior: pseudo-count of each level.

    Returns:
        Bits per dimension of the 8-bit form, each level being spread over ``256 / levels`` values.
    """
    counts = torch.stack([(train == level).sum(dim=0) for level in range(levels)]) + prior
    log2_share = (counts / counts.sum(dim=0)).log2()
    bits = -log2_share.gather(0, test) + math.log2(256 / levels)
    return float(bits.mean())


def gaussian_bits_per_dim(train: Tensor, test: Tensor, *, shrinkage: float) -> float:
    """A full-covariance Gaussian fitted to ``[n, d]`` in [0, 1] by maximum likelihood.

    Args:
        train: dequantised images as rows.
        test: the same for the images to score.
        shrinkage: added to the covariance's diagonal.

    Returns:
        Bits per dimension of the 8-bit form.
    """
    mean = train.mean(dim=0)
    dimensions = train.shape[1]
    covariance = torch.cov(train.T) + shrinkage * torch.eye(dimensions)
    normal = torch.distributions.MultivariateNormal(mean.double(), covariance.double())
    nats = normal.log_prob(test.double()) - dimensions * math.log(256)
    return float(bits_per_dim(nats, dimensions).mean())


def observed_log_likelihood(image: Tensor, mean: Tensor, scale: float | Tensor) -> Tensor:
    """Nats of 8-bit pixels under `bounds.discretized_logistic_log_likelihood`.

    Args:
        image: pixels in [-1, 1], ``[n, ...]``; rounded to the 256 levels.
        mean: the logistic's mean in [-1, 1], the same shape.
        scale: the logistic's scale in 8-bit pixel steps.

    Returns:
        ``[n]``, summed over the pixels.
    """
    pixels, center = ((image + 1) * 127.5).round(), (mean + 1) * 127.5
    return bounds.discretized_logistic_log_likelihood(pixels, center, scale)


def fit_logistic_scale(image: Tensor, mean: Tensor) -> float:
    """The discretised logistic's scale of highest likelihood, in 8-bit pixel steps.

    Args:
        image: pixels in [-1, 1].
        mean: their reconstructions, the same shape.
    """
    candidates = torch.logspace(-1, 1.5, 51)
    nats = [float(observed_log_likelihood(image, mean, scale).mean()) for scale in candidates]
    return float(candidates[max(range(len(nats)), key=nats.__getitem__)])
