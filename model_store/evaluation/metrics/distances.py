"""Distances between two sets of feature vectors, and the score of one set of class logits.

The features come from a network of our own domain or of the user's, never from Inception: numbers
are comparable among models that were measured with the same network, and with nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

KERNEL_SUBSETS = 50
KERNEL_SUBSET_SIZE = 500
SCORE_SPLITS = 10
PROJECTIONS = 256


class Estimate(NamedTuple):
    """A value and its standard deviation over subsets."""

    value: float
    deviation: float


class _AsTheyAre(nn.Module):
    """Hands features through, where a metric expects a network that makes them of images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """``features``."""
        return features


def frechet_distance(samples: Tensor, real: Tensor) -> float:
    """Between Gaussians fitted to both sets (Heusel et al., 2017, arXiv:1706.08500, eq. 6).

    Args:
        samples: features ``[n, d]`` of generated images, ``n`` at least 2.
        real: features ``[m, d]`` of real ones.
    """
    metric = FrechetInceptionDistance(_AsTheyAre(samples.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(samples.double(), real=False)
    return float(metric.compute())


def kernel_distance(samples: Tensor, real: Tensor, *, seed: int = 0) -> Estimate:
    """Unbiased squared MMD with the cubic kernel (Binkowski et al., 2018, arXiv:1801.01401).

    May be a little below 0 where both sets are alike.

    Args:
        samples: features ``[n, d]``.
        real: features ``[m, d]``.
        seed: of the subsets that are averaged.
    """
    size = min(KERNEL_SUBSET_SIZE, len(samples), len(real))
    with _seeded(seed):
        metric = KernelInceptionDistance(
            _AsTheyAre(samples.shape[1]), subsets=KERNEL_SUBSETS, subset_size=size
        )
        metric.set_dtype(torch.float64)
        metric.update(real.double(), real=True)
        metric.update(samples.double(), real=False)
        mean, deviation = metric.compute()
    return Estimate(float(mean), float(deviation))


def class_score(logits: Tensor, *, seed: int = 0) -> Estimate:
    """``exp E KL(p(y | x) || p(y))`` of a classifier (Salimans et al., 2016, arXiv:1606.03498).

    From 1, when all images are read alike, to the number of classes. Inception's score where the
    classifier is Inception, else this domain's own.

    Args:
        logits: ``[n, classes]``.
        seed: of the order in which images fall into the ten groups that are averaged.
    """
    with _seeded(seed):
        metric = InceptionScore(_AsTheyAre(logits.shape[1]), splits=SCORE_SPLITS)
        metric.update(logits.double())
        mean, deviation = metric.compute()
    return Estimate(float(mean), float(deviation))


def sliced_wasserstein_distance(
    samples: Tensor, real: Tensor, *, projections: int = PROJECTIONS, seed: int = 0
) -> float:
    """Root mean square over directions of the 2-Wasserstein distance of the projections.

    Bonneel et al., 2015, doi:10.1007/s10851-014-0506-3; in one dimension it is the distance of the
    quantile functions. Unequal sets are compared at the quantiles of the smaller one.

    Args:
        samples: ``[n, d]``.
        real: ``[m, d]``.
        projections: random directions.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(samples.shape[1], projections, generator=generator).double()
    directions /= directions.norm(dim=0)
    count = min(len(samples), len(real))
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    first, second = (
        torch.quantile(rows.double() @ directions, places, dim=0, interpolation="nearest")
        if len(rows) != count
        else (rows.double() @ directions).sort(dim=0).values
        for rows in (samples, real)
    )
    return float((first - second).square().mean().sqrt())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Metrics that draw from torch's own generator do so from ``seed``, and disturb nobody."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric .* will save all extracted features")
        torch.manual_seed(seed)
        yield
