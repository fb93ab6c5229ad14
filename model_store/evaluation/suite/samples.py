"""How good a model's samples are, and whether they show what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from model_store.evaluation.judge import evenness
from model_store.evaluation.metrics.distances import (
    KERNEL_SUBSET_SIZE,
    class_score,
    frechet_distance,
    kernel_distance,
    sliced_wasserstein_distance,
)
from model_store.evaluation.metrics.fidelity import LEAST_SIDE, sameness
from model_store.evaluation.metrics.manifolds import NEIGHBOURS, coverage
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.features import Features, ReadsFactors
from model_store.evaluation.suite.held_out import Factor, HeldOut, signed
from model_store.evaluation.suite.measured import Measurement, measurement
from model_store.evaluation.suite.restorations import agreement

PIXELS = "pixels"
SPLITS = 10
"""The class score is a mean over so many groups; each needs a few images."""
LEAST_SCORED = 10 * SPLITS


def tellings(subject: Subject, real: HeldOut, count: int) -> list[dict[str, Any]]:
    """What each of ``count`` samples is told: a held-out caption, a label in turn, or nothing."""
    if subject.takes("generate", "prompt") and real.captions:
        return [{"prompt": real.captions[i % len(real.captions)]} for i in range(count)]
    if subject.takes("generate", "label") and subject.info.labels:
        labels = len(subject.info.labels)
        return [{"label": i * labels // count} for i in range(count)]
    return [{} for _ in range(count)]


def compared(
    samples: Tensor, real: HeldOut, features: Features | None, *, seed: int
) -> list[Measurement]:
    """Distances and manifolds of two sets of images.

    Args:
        samples: uint8 ``[n, channels, height, width]``.
        real: held-out images.
        features: what they are compared by; pixels alone when absent.
        seed: of subsets and directions.
    """
    count = min(len(samples), len(real.images))
    rows = [images.flatten(1).double() / 255 for images in (samples, real.images)]
    found = [
        measurement(
            f"sliced_wasserstein_{PIXELS}",
            sliced_wasserstein_distance(rows[0], rows[1], seed=seed),
            images=count,
            better="lower",
        )
    ]
    if features is None:
        found += _manifolds(rows[0], rows[1], PIXELS, count)
    else:
        found += _by_features(samples, real.images, features, count, seed)
    if min(samples.shape[-2:]) >= LEAST_SIDE:
        for name, images in (("samples", samples), ("held_out_images", real.images)):
            alike = sameness(signed(images))
            found.append(measurement(f"ms_ssim_between_{name}", alike, images=len(images)))
    return found


def _by_features(
    samples: Tensor, real: Tensor, features: Features, count: int, seed: int
) -> list[Measurement]:
    name = features.described.name
    vectors = features.vectors(samples), features.vectors(real)
    kernel = kernel_distance(*vectors, seed=seed)
    found = [
        measurement(f"fid_{name}", frechet_distance(*vectors), images=count, better="lower"),
        measurement(
            f"kid_{name}",
            kernel.value,
            # One subset that holds everything has no deviation worth a number.
            deviation=kernel.deviation if count > KERNEL_SUBSET_SIZE else None,
            images=count,
            better="lower",
        ),
        *_manifolds(vectors[0], vectors[1], name, count),
    ]
    logits = features.logits(samples)
    if logits is not None and count >= LEAST_SCORED:
        known = features.logits(real)
        for suffix, rows in (("", logits), ("_of_held_out_images", known)):
            if rows is None:
                continue
            score = class_score(rows, seed=seed)
            found.append(
                measurement(
                    f"is_{name}{suffix}",
                    score.value,
                    deviation=score.deviation,
                    images=len(rows),
                    better=None if suffix else "higher",
                )
            )
    return found


def _manifolds(samples: Tensor, real: Tensor, name: str, count: int) -> list[Measurement]:
    if count <= NEIGHBOURS:
        return []
    found = coverage(samples, real)
    return [
        measurement(f"{kind}_{name}", value, images=count, better="higher")
        for kind, value in found._asdict().items()
    ]


def prompt_agreement(samples: Tensor, real: HeldOut, reader: ReadsFactors) -> list[Measurement]:
    """Share of factors that are read as the prompt said: what stands here for a CLIP score.

    Args:
        samples: uint8 ``[n, channels, height, width]``, by the captions in turn (`tellings`).
        real: whose captions the prompts are.
        reader: says what an image shows.
    """
    rows = torch.arange(len(samples)) % len(real.captions)
    factors = {name: Factor(values, shown[rows]) for name, (values, shown) in real.factors.items()}
    return agreement(f"prompt_agreement_{reader.described.name}", samples, factors, reader)


def label_accuracy(
    samples: Tensor,
    told: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    real: HeldOut,
    reader: ReadsFactors,
) -> list[Measurement]:
    """Share of samples in which the factor that the labels name is read as it was told.

    Nothing where the labels are not the values of a factor of the held-out images.
    """
    read = reader.read(samples)
    asked = torch.tensor([row["label"] for row in told])
    name = f"label_accuracy_{reader.described.name}"
    return [
        measurement(
            name,
            float((read[factor] == asked).double().mean()),
            images=len(samples),
            better="higher",
        )
        for factor, (values, _) in real.factors.items()
        if factor in read and list(values) == list(labels)
    ]


def variety(
    samples: Tensor, factors: Mapping[str, Factor], reader: ReadsFactors
) -> list[Measurement]:
    """Entropy of what is read of each factor, over its largest: 1 when all come equally often."""
    read = reader.read(samples)
    return [
        measurement(f"evenness_{factor}", evenness(read[factor], len(values)), images=len(samples))
        for factor, (values, _) in factors.items()
        if factor in read
    ]
