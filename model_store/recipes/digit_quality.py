"""How good generated digits are, by readers and distances that no generator was trained with.

Digits of 64 pixels are compared as they are: no feature network stands between.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import Tensor

from model_store.evaluation import judge
from model_store.recipes import digits

NEIGHBOURS = 3
WORDS = (
    "`readers_agree` is the share of samples in which a support vector machine and a "
    "nearest-neighbour reader, fitted to real digits, read the same one; `digit_evenness` the "
    "entropy of what is read, over its largest; `precision` and `recall` compare manifolds, "
    "`frechet_distance` Gaussians, with the test split, between pixels. `train_...` is what as "
    "many training images score."
)
"""What the numbers of `quality` mean, for a card."""
BRIGHTEST = digits.LEVELS - 1


@cache
def readers() -> tuple[SVC, KNeighborsClassifier]:
    """A support vector machine and a nearest-neighbour reader, fitted to the training split."""
    images, target = digits.levels("train")
    rows, names = images.flatten(1).numpy(), target.numpy()
    return SVC(gamma=0.001).fit(rows, names), KNeighborsClassifier(3).fit(rows, names)


def in_levels(images: Tensor) -> NDArray[np.float64]:
    """Images ``[n, 1, 8, 8]`` in [-1, 1] as rows of 64 grey levels in 0..16, not rounded.

    A level is spread over ``2 / 17`` of the range; its middle stands for it.
    """
    found = (images.double() + 1) * (digits.LEVELS / 2) - 0.5
    return found.clamp(0, BRIGHTEST).flatten(1).numpy()


def read(images: Tensor) -> Tensor:
    """The digit that the support vector machine reads in each image in [-1, 1], ``[n]``."""
    return torch.from_numpy(readers()[0].predict(in_levels(images)))


def readable(rows: NDArray[np.float64]) -> float:
    """Share of rows in which both readers see the same digit: noise is read by luck alone."""
    first, second = (reader.predict(rows) for reader in readers())
    return float((first == second).mean())


def precision_and_recall(
    samples: NDArray[np.float64], real: NDArray[np.float64]
) -> tuple[float, float]:
    """Share of samples within the real images' manifold, and of real ones within the samples'.

    A manifold is the balls around its images that reach to their `NEIGHBOURS`-th neighbour
    (Kynkaanniemi et al., 2019, arXiv:1904.06991, eq. 1 and 2).
    """
    return _inside(samples, real), _inside(real, samples)


def _inside(points: NDArray[np.float64], manifold: NDArray[np.float64]) -> float:
    reach = np.sort(pairwise_distances(manifold), axis=1)[:, NEIGHBOURS]
    return float((pairwise_distances(points, manifold) <= reach).any(axis=1).mean())


def frechet_distance(samples: NDArray[np.float64], real: NDArray[np.float64]) -> float:
    """Between Gaussians fitted to both sets of rows (Heusel et al., 2017, eq. 6), per pixel.

    In grey levels squared; between pixels, not between features of a network.
    """
    means = [torch.from_numpy(rows.mean(axis=0)) for rows in (samples, real)]
    first, second = (torch.cov(torch.from_numpy(rows).T) for rows in (samples, real))
    cross = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    apart = (means[0] - means[1]).square().sum()
    return float(apart + first.trace() + second.trace() - 2 * cross) / digits.DIMENSIONS


def quality(samples: Tensor) -> dict[str, Any]:
    """Samples ``[n, 1, 8, 8]`` in [-1, 1] against the test split; a training set's own numbers too.

    ``train_...`` are those of as many training images: what the data itself would score.
    """
    test, _ = digits.levels("test")
    real = test.double().flatten(1).numpy()
    train = digits.levels("train")[0][: len(samples)].double().flatten(1).numpy()
    rows = in_levels(samples)
    found: dict[str, Any] = {
        "digit_evenness": round(judge.evenness(read(samples), 10), 4),
        "samples": len(samples),
    }
    for name, one in (("", rows), ("train_", train)):
        precision, recall = precision_and_recall(one, real)
        found |= {
            f"{name}readers_agree": round(readable(one), 4),
            f"{name}precision": round(precision, 4),
            f"{name}recall": round(recall, 4),
            f"{name}frechet_distance": round(frechet_distance(one, real), 4),
        }
    return found
