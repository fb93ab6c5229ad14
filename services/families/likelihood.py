"""The answer of every family that can judge an image, in one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.core.model import ANOMALOUS_PERCENTILE, LikelihoodKind, ReferenceSet
from services.core.trajectory import Result
from services.sampling.bounds import bits_per_dim, percentile_among

ReferenceSettings = dict[str, int | str | None]
"""The parameters that a model's reference quantiles were computed with, by name."""


def reference_set(
    quantiles: Sequence[float] | None, settings: ReferenceSettings | None = None
) -> ReferenceSet | None:
    """How a model describes its reference, where its options have one.

    Args:
        quantiles: ascending, of log-likelihoods of held-out images, in nats.
        settings: the parameters that matter, as they were for the reference.
    """
    return ReferenceSet(tuple(quantiles), dict(settings or {})) if quantiles else None


def comparable(
    reference: Sequence[float] | None, settings: ReferenceSettings, asked: Mapping[str, Any]
) -> Sequence[float] | None:
    """The reference quantiles where a request's estimator is the one that made them, else none.

    A bound moves with its tightness, and a likelihood with what the model is told: against the
    quantiles of another estimator a percentile would say nothing of the image.

    Args:
        reference: ascending quantiles of log-likelihoods of held-out images.
        settings: the parameters that matter, as they were for the reference.
        asked: the request's own parameters.
    """
    same = all(asked.get(name) == value for name, value in settings.items())
    return reference if same else None


def judged(
    log_likelihood: float,
    *,
    dims: int,
    kind: LikelihoodKind,
    terms: Mapping[str, float],
    samples: int,
    std_error: float | None,
    reference: Sequence[float] | None,
) -> Result:
    """The result of a likelihood job.

    Args:
        log_likelihood: of the 8-bit image, in nats.
        dims: values of the image, over which bits are spread.
        kind: what the number is.
        terms: what it is made of, in nats.
        samples: draws behind it.
        std_error: of the log-likelihood, in nats; ``None`` where one draw cannot tell.
        reference: ascending quantiles of log-likelihoods of held-out images. Below their
            `ANOMALOUS_PERCENTILE` an image is called anomalous.
    """
    percentile = percentile_among(log_likelihood, reference) if reference else None
    values: dict[str, Any] = {
        "log_likelihood": log_likelihood,
        "bits_per_dim": bits_per_dim(log_likelihood, dims),
        "kind": kind,
        "std_error": std_error,
        "terms": dict(terms),
        "samples": samples,
        "percentile": percentile,
        "anomalous": None if percentile is None else percentile < ANOMALOUS_PERCENTILE,
    }
    return Result(values=values)
