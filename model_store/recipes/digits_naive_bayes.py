"""Fit Gaussian naive Bayes to digits: ``python -m model_store.recipes.digits_naive_bayes``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.naive_bayes import GaussianNB

from model_store.export.package import publish
from model_store.recipes import digit_densities as densities
from model_store.recipes import digits
from model_store.recipes.digit_densities import EIGHT_BITS, Fitted

SMOOTHING = (1e-9, 1e-4, 1e-3, 1e-2, 3e-2, 0.1)
"""Candidates for what is added to every variance, as a share of the largest pixel's."""


def fit() -> tuple[Fitted, GaussianNB]:
    """The classifier whose density is the highest on the validation split."""
    train, target = densities.rows("train")
    validation, _ = densities.rows("validation")

    def score(found: GaussianNB) -> float:
        joint = found.predict_joint_log_proba(validation)
        return float(np.logaddexp.reduce(joint, axis=1).mean())

    best = max((GaussianNB(var_smoothing=s).fit(train, target) for s in SMOOTHING), key=score)
    density, sampler = densities.gaussians(best.theta_, best.var_, "diagonal")
    fitted = Fitted(
        id="digits-naive-bayes",
        description="Gaussian naive Bayes of handwritten digits at 8x8: exact likelihood, the "
        "posterior of every digit, samples by label.",
        summary="Gaussian naive Bayes of 8x8 handwritten digits: a Gaussian for every pixel of "
        "every digit, which vary independently once the digit is known. A likelihood comes with "
        "the posterior of every digit.",
        training="Maximum likelihood (scikit-learn's `GaussianNB`) on "
        f"{densities.DRAWS} dequantisation draws of the training split, {best.epsilon_:.3g} added "
        "to every variance (chosen on the validation split).",
        measured=f"{EIGHT_BITS} `accuracy` is the share of images whose likeliest digit is right.",
        density=density,
        sampler=sampler,
        density_name="mixture_density",
        sampler_name="mixture_sampler",
        config={"components": digits.CLASSES, "covariance": "diagonal"},
        weights=[float(weight) for weight in best.class_prior_],
        labels=[str(digit) for digit in range(digits.CLASSES)],
        limits=(
            "Neighbouring pixels are taken for independent, which they are not: posteriors are "
            "surer than they are right.",
        ),
    )
    return fitted, best


def main() -> None:
    """Fit, measure, export and package the model."""
    fitted, classifier = fit()
    test, target = densities.rows("test")
    joint = densities.log_joint(fitted, densities.images_of(test))
    nats = torch.logsumexp(joint, dim=1) - densities.WIDTH
    metrics: dict[str, Any] = {
        **densities.bits(nats),
        "baseline_histogram_bits_per_dim": densities.histogram(),
        "accuracy": densities.accuracy(joint, target),
        "added_variance": float(f"{classifier.epsilon_:.3g}"),
        "images": len(nats) // densities.DRAWS,
    }
    publish(densities.package(fitted, metrics, nats))


if __name__ == "__main__":
    main()
