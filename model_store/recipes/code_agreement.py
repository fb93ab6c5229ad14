"""What unsupervised codes turned out to mean: against labels, and against what can be measured."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix, mutual_info_score
from torch import Tensor


def agreement(categories: Tensor, labels: Tensor, *, classes: int = 10) -> dict[str, Any]:
    """How well categories match labels, whatever the categories are called.

    Args:
        categories: int64 ``[n]`` in ``0..classes - 1``.
        labels: int64 ``[n]`` in ``0..classes - 1``.
        classes: how many there are of each.

    Returns:
        ``accuracy`` under the one-to-one assignment that makes it largest (Kuhn, 1955),
        ``mutual_information_bits``, and the assignment.
    """
    pairs = categories.numpy(), labels.numpy()
    counts = confusion_matrix(*pairs, labels=range(classes))
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {
        "accuracy": round(float(counts[rows, columns].sum()) / len(labels), 4),
        "mutual_information_bits": round(float(mutual_info_score(*pairs)) / math.log(2), 4),
        "digit_of_category": {str(c): int(d) for c, d in zip(rows, columns, strict=True)},
    }


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of two ``[n]``, in [-1, 1]."""
    return round(float(torch.corrcoef(torch.stack([first.double(), second.double()]))[0, 1]), 4)


def ink(images: Tensor) -> Tensor:
    """Mean brightness of images ``[n, 1, h, w]`` in [-1, 1], in [0, 1]: ``[n]``."""
    return ((images + 1) / 2).flatten(1).mean(dim=1)


def slant(images: Tensor) -> Tensor:
    """How far strokes lean: the brightness's slope of columns over rows, ``[n]``.

    The covariance of column and row over the variance of the row, weighted by brightness;
    negative where the top leans to the right.
    """
    weight = ((images[:, 0] + 1) / 2).double()
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)
    _, height, width = weight.shape
    row = torch.arange(height, dtype=torch.float64)[None, :, None].expand_as(weight)
    column = torch.arange(width, dtype=torch.float64)[None, None, :].expand_as(weight)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum(dim=(1, 2), keepdim=True)

    down, across = row - mean(row), column - mean(column)
    return (mean(down * across) / mean(down.square())).flatten()
