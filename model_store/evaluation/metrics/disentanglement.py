"""DCI: do single numbers of a code stand for single factors of what is shown?

Eastwood and Williams, 2018, "A framework for the quantitative evaluation of disentangled
representations" (ICLR). Logarithms are to the base of the number of alternatives, so that every
score lies in [0, 1].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

TREES = 40
LEAST_IN_LEAF = 4

Matrix = NDArray[np.float64]


class Disentanglement(NamedTuple):
    """Of a code, and of each of its numbers and factors.

    Attributes:
        disentanglement: whether each number of the code matters to one factor only.
        completeness: whether each factor is held by one number only.
        informativeness: balanced accuracy of reading the factors from the code, mean over factors.
        importances: ``[numbers, factors]``, how much each number helps to read each factor.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importances: Matrix


def concentration(shares: Matrix) -> Matrix:
    """``1 - H / log k`` of every row of non-negative numbers ``[n, k]``; 0 for an empty row."""
    total = shares.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(total > 0, shares / total, 1 / shares.shape[1])
        entropy = -np.where(p > 0, p * np.log(p), 0.0).sum(axis=1)
    found: Matrix = 1 - entropy / np.log(shares.shape[1])
    return found


def disentanglement(importances: Matrix) -> float:
    """How much each number of a code keeps to one factor, weighted by how much it matters."""
    return _weighted(concentration(importances), importances.sum(axis=1))


def completeness(importances: Matrix) -> float:
    """How much each factor keeps to one number of a code, weighted likewise."""
    return _weighted(concentration(importances.T), importances.sum(axis=0))


def dci(
    codes: Tensor, factors: Tensor, test_codes: Tensor, test_factors: Tensor, *, seed: int = 0
) -> Disentanglement:
    """Read every factor from the code by a random forest, and see which numbers it used.

    Args:
        codes: ``[n, numbers]``, at least two numbers.
        factors: int64 ``[n, factors]``, at least two factors.
        test_codes: held out, to measure informativeness by.
        test_factors: of these.
        seed: of the forests.
    """
    rows, held_out = codes.double().numpy(), test_codes.double().numpy()
    columns, scores = [], []
    for i in range(factors.shape[1]):
        # Every split may choose among all numbers: one that is not offered the right number takes a
        # wrong one, which would look like entanglement.
        forest: Any = RandomForestClassifier(
            TREES, min_samples_leaf=LEAST_IN_LEAF, max_features=None, random_state=seed
        ).fit(rows, factors[:, i].numpy())
        columns.append(forest.feature_importances_)
        scores.append(balanced_accuracy_score(test_factors[:, i], forest.predict(held_out)))
    importances: Matrix = np.stack(columns, axis=1)
    return Disentanglement(
        disentanglement(importances),
        completeness(importances),
        float(np.mean(scores)),
        importances,
    )


def _weighted(scores: Matrix, weights: Matrix) -> float:
    total = weights.sum()
    return float((scores * weights).sum() / total) if total > 0 else 0.0
