"""The answer of every family that can judge an image, in one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from services.core.complexity import complexity_bits
from services.core.images import Pixels
from services.core.model import ANOMALOUS_PERCENTILE, LikelihoodKind, ReferenceSet
from services.core.residuals import residual_bits
from services.core.trajectory import Result
from services.sampling.bounds import bits_per_dim, percentile_among

ReferenceSettings = dict[str, int | str | None]
"""The parameters that a model's reference quantiles were computed with, by name."""


class Complexity(NamedTuple):
    """What a likelihood is corrected by.

    Attributes:
        image: whose complexity is counted.
        reference: ascending quantiles of ``corrected_bits_per_dim`` of held-out images.
        again: where the likelihood is of an image's codes, the image that they stand for.
    """

    image: Pixels
    reference: Sequence[float] | None
    again: Pixels | None = None


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
        reference: ascending quantiles of held-out images.
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
    complexity: Complexity | None = None,
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
        complexity: what the likelihood is corrected by, where that says anything.
    """
    percentile = percentile_among(log_likelihood, reference) if reference else None
    bits = bits_per_dim(log_likelihood, dims)
    values: dict[str, Any] = {
        "log_likelihood": log_likelihood,
        "bits_per_dim": bits,
        "kind": kind,
        "std_error": std_error,
        "terms": dict(terms),
        "samples": samples,
        "percentile": percentile,
        "anomalous": _anomalous(percentile),
    }
    return Result(values={**values, **_corrected(bits * dims, complexity)})


def _corrected(total: float, complexity: Complexity | None) -> dict[str, float | bool | None]:
    """The likelihood without what a simple image is worth to any model.

    A compressor's bits are subtracted from the model's (Serra et al., 2020, arXiv:1909.11480, eq.
    3): the log-ratio of a general model of images and this one. Above 0 the model finds the image
    stranger than a compressor does. The percentile is turned round, so that here too the lowest are
    anomalous.

    A likelihood of codes says nothing of what they leave out. The bits of that are added, so that
    both descriptions are of the same image.

    Args:
        total: the model's bits.
        complexity: see `judged`.
    """
    compressed = score = percentile = None
    left_out: dict[str, float | bool | None] = {}
    found = None if complexity is None else complexity_bits(complexity.image)
    if complexity is not None and found is not None:
        values = complexity.image.size
        compressed = found / values
        score = total / values - compressed
        if complexity.again is not None:
            residual = residual_bits(complexity.image, complexity.again) / values
            score += residual
            left_out = {"residual_bits_per_dim": residual}
        if complexity.reference:
            percentile = 100 - percentile_among(score, complexity.reference)
    return {
        **left_out,
        "complexity_bits_per_dim": compressed,
        "corrected_bits_per_dim": score,
        "corrected_percentile": percentile,
        "corrected_anomalous": _anomalous(percentile),
    }


def _anomalous(percentile: float | None) -> bool | None:
    return None if percentile is None else percentile < ANOMALOUS_PERCENTILE
