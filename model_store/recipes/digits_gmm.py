"""Fit a Gaussian mixture to handwritten digits: ``python -m model_store.recipes.digits_gmm``."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.mixture import GaussianMixture

from model_store.export.package import publish
from model_store.recipes import digit_densities as densities
from model_store.recipes.digit_densities import EIGHT_BITS, Fitted

COMPONENTS = (5, 10)
VARIANCES = (3e-4, 1e-3, 3e-3)
"""Candidates; the validation split chooses."""


def fit() -> tuple[Fitted, GaussianMixture]:
    """The mixture of highest likelihood on the validation split, as EM finds it."""
    train, _ = densities.rows("train")
    validation, _ = densities.rows("validation")
    candidates = [
        GaussianMixture(count, reg_covar=variance, random_state=0, max_iter=50).fit(train)
        for count in COMPONENTS
        for variance in VARIANCES
    ]
    best = max(candidates, key=lambda found: found.score(validation))
    density, sampler = densities.gaussians(best.means_, best.covariances_, "full")
    count = best.n_components
    fitted = Fitted(
        id="digits-gmm",
        description="A Gaussian mixture of handwritten digits at 8x8: exact likelihood.",
        summary=f"A mixture of {count} Gaussians of 8x8 handwritten digits with full covariances, "
        "which knows nothing of the digits' names.",
        training="Expectation maximisation (scikit-learn's `GaussianMixture`, seed 0) on "
        f"{densities.DRAWS} dequantisation draws of the training split; {count} components and "
        f"{best.reg_covar:g} added to every pixel's variance were chosen on the validation split. "
        "The Cholesky factors of the covariances and their inverses are found at export.",
        measured=EIGHT_BITS,
        density=density,
        sampler=sampler,
        density_name="mixture_density",
        sampler_name="mixture_sampler",
        config={"components": count, "covariance": "full"},
        weights=[float(weight) for weight in best.weights_],
        limits=("A component is a shape that images have in common, and not always one digit.",),
    )
    return fitted, best


def main() -> None:
    """Fit, measure, export and package the model."""
    fitted, mixture = fit()
    test, _ = densities.rows("test")
    joint = densities.log_joint(fitted, densities.images_of(test))
    nats = torch.logsumexp(joint, dim=1) - densities.WIDTH
    metrics: dict[str, Any] = {
        **densities.bits(nats),
        "baseline_histogram_bits_per_dim": densities.histogram(),
        "components": mixture.n_components,
        "added_variance": mixture.reg_covar,
        "images": len(nats) // densities.DRAWS,
    }
    publish(densities.package(fitted, metrics, nats))


if __name__ == "__main__":
    main()
