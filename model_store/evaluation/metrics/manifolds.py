"""How far two sets of feature vectors cover one another: fidelity and diversity apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

NEIGHBOURS = 5

Rows = NDArray[np.float64]


class Coverage(NamedTuple):
    """Fidelity (``precision``, ``density``) and diversity (``recall``, ``coverage``).

    All in [0, 1] but ``density``, whose expectation is 1 where both sets come from one
    distribution.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(samples: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS) -> Coverage:
    """Compare the manifolds of two sets of features.

    A manifold is the balls around its members that reach to their ``neighbours``-th neighbour.
    ``precision`` is the share of samples in the real manifold, ``recall`` that of real ones in the
    samples' (Kynkaanniemi et al., 2019, arXiv:1904.06991, eq. 1 and 2); ``density`` counts how many
    real balls a sample is in, over ``neighbours``, and ``coverage`` is the share of real balls that
    hold a sample (Naeem et al., 2020, arXiv:2002.09797, eq. 3 and 4).

    Args:
        samples: ``[n, d]``, more than ``neighbours``.
        real: ``[m, d]``, more than ``neighbours``.
        neighbours: k.
    """
    fake, true = (rows.double().numpy() for rows in (samples, real))
    reach_of_real, reach_of_fake = _reach(true, neighbours), _reach(fake, neighbours)
    apart = _distances(fake, true)
    in_real = apart <= reach_of_real[None, :]
    in_fake = apart <= reach_of_fake[:, None]
    return Coverage(
        precision=float(in_real.any(axis=1).mean()),
        recall=float(in_fake.any(axis=0).mean()),
        density=float(in_real.sum(axis=1).mean() / neighbours),
        coverage=float(in_real.any(axis=0).mean()),
    )


def _reach(rows: Rows, neighbours: int) -> Rows:
    """The distance of each row to its ``neighbours``-th neighbour, itself not counted."""
    search = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(rows)
    distances, _ = search.kneighbors()
    last: Rows = distances[:, -1]
    return last


def _distances(first: Rows, second: Rows) -> Rows:
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None, :] - 2 * first @ second.T
    found: Rows = np.sqrt(np.maximum(squares, 0.0))
    return found
