"""Fit a Gaussian to handwritten digits: ``python -m model_store.recipes.digits_gaussian``."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats
from sklearn.covariance import EmpiricalCovariance

from model_store.export.package import publish
from model_store.recipes import digit_densities as densities
from model_store.recipes.digit_densities import EIGHT_BITS, Array, Fitted

VARIANCES = (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""Candidates for what is added to every pixel's variance; the validation split chooses."""


def fit() -> tuple[Fitted, float, float]:
    """The Gaussian, the variance that was added, and the diagonal one's bits per dimension."""
    train, _ = densities.rows("train")
    validation, _ = densities.rows("validation")
    test, _ = densities.rows("test")
    found = EmpiricalCovariance().fit(train)

    def shrunken(variance: float) -> Array:
        covariance: Array = found.covariance_ + variance * np.eye(train.shape[1])
        return covariance

    def score(variance: float) -> float:
        return float(
            stats.multivariate_normal(found.location_, shrunken(variance)).logpdf(validation).mean()
        )

    variance = max(VARIANCES, key=score)
    covariance = shrunken(variance)
    density, sampler = densities.gaussians(found.location_[None], covariance[None], "full")
    alone = stats.norm(found.location_, np.sqrt(found.covariance_.diagonal() + variance))
    nats = alone.logpdf(test).sum(axis=1).mean() - densities.WIDTH
    fitted = Fitted(
        id="digits-gaussian",
        description="A full-covariance Gaussian of handwritten digits at 8x8: exact likelihood.",
        summary="One Gaussian of 8x8 handwritten digits with a full covariance: every pixel's mean "
        "and how each pair of them varies together, and nothing else.",
        training=f"Maximum likelihood on {densities.DRAWS} dequantisation draws of the training "
        f"split, {variance:g} added to every pixel's variance (chosen on the validation split). "
        "The Cholesky factor of the covariance and its inverse are found at export.",
        measured=f"{EIGHT_BITS} `diagonal_bits_per_dim` is the same Gaussian without covariances.",
        density=density,
        sampler=sampler,
        density_name="gaussian_density",
        sampler_name="mixture_sampler",
        config={"covariance": "full"},
        sampler_config={"components": 1},
        limits=(
            "Samples look like mixtures of all digits at once: one Gaussian has one centre.",
            "Pixels that hardly vary get most of the density; a histogram of 17 levels, which the "
            "data has, is a better model of one pixel.",
        ),
    )
    return fitted, variance, float(-nats / np.log(2) / train.shape[1])


def main() -> None:
    """Fit, measure, export and package the model."""
    fitted, variance, diagonal = fit()
    test, _ = densities.rows("test")
    nats = densities.log_joint(fitted, densities.images_of(test))[:, 0] - densities.WIDTH
    metrics: dict[str, Any] = {
        **densities.bits(nats),
        "diagonal_bits_per_dim": round(diagonal, 4),
        "baseline_histogram_bits_per_dim": densities.histogram(),
        "added_variance": variance,
        "images": len(nats) // densities.DRAWS,
    }
    publish(densities.package(fitted, metrics, nats))


if __name__ == "__main__":
    main()
