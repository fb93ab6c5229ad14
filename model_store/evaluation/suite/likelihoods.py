"""What a model finds probable: bits per dimension, and whether it knows a stranger.

Raw likelihoods prefer simple images, whatever a model was trained on (Nalisnick et al., 2019,
arXiv:1810.09136); both scores stand side by side, even where the raw one is worse than chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from model_store.evaluation.reference import quantiles
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.held_out import HeldOut
from model_store.evaluation.suite.measured import Measurement, measurement
from services.core.job import Task

TOGETHER = 16
SCORES = {"likelihood": "bits_per_dim", "corrected_likelihood": "corrected_bits_per_dim"}
"""What is higher for stranger images, by the name of its measurement."""
RESIDUAL = "residual_bits_per_dim"
"""Of a likelihood of codes, where each code is a dimension: what they leave out of the image."""


class Likelihoods(NamedTuple):
    """Numbers, and the quantiles of the corrected bits per dimension, where there is such a score.

    Another image's corrected percentile is read off the quantiles.
    """

    measurements: list[Measurement]
    corrected_reference: list[float] | None


async def likelihoods(subject: Subject, real: HeldOut, count: int) -> Likelihoods:
    """Of at most ``count`` held-out images, and as many of each other kind, by the defaults."""
    known = await _judged(subject, "likelihoods", real.images[:count])
    found = _bits(known, subject.info.likelihood)
    for kind, images in real.others.items():
        strangers = await _judged(subject, f"likelihoods of {kind}", images[:count])
        found += anomalies(known, strangers, kind)
    corrected = [row["corrected_bits_per_dim"] for row in known]
    if None in corrected:
        return Likelihoods(found, None)
    found.append(measurement("corrected_bits_per_dim", fmean(corrected), images=len(known)))
    return Likelihoods(found, quantiles(torch.tensor(corrected)))


def anomalies(
    known: Sequence[dict[str, Any]], strangers: Sequence[dict[str, Any]], kind: str
) -> list[Measurement]:
    """Areas under the ROC curve of telling ``strangers`` by either score.

    Args:
        known: likelihoods of held-out images, as they are served.
        strangers: likelihoods of images of another kind.
        kind: what these are.
    """
    found = []
    for name, field in SCORES.items():
        scores = [row.get(field) for row in (*known, *strangers)]
        if any(score is None for score in scores):
            continue
        truth = [0] * len(known) + [1] * len(strangers)
        area = float(roc_auc_score(truth, scores))
        found.append(
            measurement(f"anomaly_auroc_{kind}_{name}", area, images=len(truth), better="higher")
        )
    return found


def _bits(rows: Sequence[dict[str, Any]], kind: str) -> list[Measurement]:
    bits = [row["bits_per_dim"] for row in rows]
    error = stdev(bits) / math.sqrt(len(bits)) if len(bits) > 1 else None
    name = {"lower_bound": "bits_per_dim_upper_bound"}.get(kind, "bits_per_dim")
    left_out = [row[RESIDUAL] for row in rows if row.get(RESIDUAL) is not None]
    if not left_out:
        return [measurement(name, fmean(bits), deviation=error, images=len(bits), better="lower")]
    return [
        measurement(
            "bits_per_code", fmean(bits), deviation=error, images=len(bits), better="lower"
        ),
        measurement(RESIDUAL, fmean(left_out), images=len(left_out), better="lower"),
    ]


async def _judged(subject: Subject, what: str, images: Tensor) -> list[dict[str, Any]]:
    items = await subject.of_each(what, Task.LIKELIHOOD, images, together=TOGETHER)
    return [dict(item.values) for item in items]
