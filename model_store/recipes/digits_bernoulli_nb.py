"""Fit Bernoulli naive Bayes to digits: ``python -m model_store.recipes.digits_bernoulli_nb``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.naive_bayes import BernoulliNB

from model_store.architectures.densities import BernoulliDensity, BernoulliSampler
from model_store.export.package import publish
from model_store.recipes import digit_densities as densities
from model_store.recipes import digits
from model_store.recipes.digit_densities import Fitted

THRESHOLD = 0.5
SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Candidates for the pseudo-counts of either value; the validation split chooses."""


def fit() -> tuple[Fitted, BernoulliNB]:
    """The classifier whose mass is the highest on the validation split."""
    train, target = densities.rows("train")
    validation, _ = densities.rows("validation")

    def score(found: BernoulliNB) -> float:
        joint = found.predict_joint_log_proba(validation)
        return float(np.logaddexp.reduce(joint, axis=1).mean())

    best = max(
        (
            BernoulliNB(alpha=a * densities.DRAWS, binarize=THRESHOLD).fit(train, target)
            for a in SMOOTHING
        ),
        key=score,
    )
    density = BernoulliDensity(components=digits.CLASSES, threshold=THRESHOLD)
    sampler = BernoulliSampler(components=digits.CLASSES)
    ones = torch.from_numpy(best.feature_log_prob_)
    logits = ones - torch.log(-torch.expm1(ones))
    with torch.no_grad():
        density.logits.copy_(logits)
        sampler.logits.copy_(logits)
    fitted = Fitted(
        id="digits-bernoulli-nb",
        description="Bernoulli naive Bayes of handwritten digits at 8x8 in black and white: exact "
        "probability of the black and white image, the posterior of every digit, samples by label.",
        summary="Bernoulli naive Bayes of 8x8 handwritten digits in black and white: the "
        "probability of ink in every pixel of every digit, independent once the digit is known. A "
        "likelihood comes with the posterior of every digit.",
        training="Maximum likelihood with pseudo-counts (scikit-learn's `BernoulliNB`) on the "
        "training split, each pixel made 1 from the 8-bit value 128 on; "
        f"{best.alpha / densities.DRAWS:g} pseudo-counts of either value (chosen on the validation "
        "split).",
        measured="On the test split. This is no density of the 8-bit image: its likelihood is the "
        "probability of the image after each pixel was made black or white, a discrete "
        "distribution, so that its bits are of one-bit pixels and compare with those of no other "
        "model here. The baseline has one probability of ink for each pixel and knows no digits. "
        "`accuracy` is the share of images whose likeliest digit is right.",
        density=density.eval(),
        sampler=sampler.eval(),
        density_name="bernoulli_density",
        sampler_name="bernoulli_sampler",
        config={"components": digits.CLASSES},
        density_config={"threshold": THRESHOLD},
        weights=[float(w) for w in np.exp(best.class_log_prior_)],
        labels=[str(digit) for digit in range(digits.CLASSES)],
        options={"binary": True},
        limits=(
            "Samples are black and white.",
            "Neighbouring pixels are taken for independent, which they are not: posteriors are "
            "surer than they are right.",
        ),
    )
    return fitted, best


def one_class_bits() -> float:
    """Bits per black and white pixel of one probability of ink for each pixel."""
    train, test = (densities.rows(split)[0] >= THRESHOLD for split in ("train", "test"))
    share = (train.sum(axis=0) + densities.DRAWS) / (len(train) + 2 * densities.DRAWS)
    return round(float(-np.log2(np.where(test, share, 1 - share)).mean()), 4)


def main() -> None:
    """Fit, measure, export and package the model."""
    fitted, _ = fit()
    test, target = densities.rows("test")
    joint = densities.log_joint(fitted, densities.images_of(test))
    nats = torch.logsumexp(joint, dim=1)
    metrics: dict[str, Any] = {
        **{f"binary_{name}": value for name, value in densities.bits(nats).items()},
        "baseline_one_class_binary_bits_per_dim": one_class_bits(),
        "accuracy": densities.accuracy(joint, target),
        "images": len(nats) // densities.DRAWS,
    }
    publish(densities.package(fitted, metrics, nats))


if __name__ == "__main__":
    main()
