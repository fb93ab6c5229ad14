"""What the recipes of the densities of handwritten digits share: data, numbers, card, package.

Nothing is trained: scikit-learn fits each of them in seconds, on the same dequantised images that
the flows learn from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.architectures.densities import (
    Covariance,
    GaussianDensity,
    MixtureDensity,
    MixtureSampler,
)
from model_store.evaluation.likelihood import bits_per_dim, histogram_bits_per_dim
from model_store.evaluation.reference import quantiles
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package
from model_store.recipes import digits

DRAWS = 10
"""Dequantisation draws that a density is fitted to, and that its numbers are the mean of."""
SAMPLES = 96
Array = NDArray[np.float64]
WIDTH = digits.DIMENSIONS * float(np.log(256))
"""Nats between a density in [0, 1] and the mass of an 8-bit image."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted density in both directions, and what its recipe says of it.

    Attributes:
        id: of the model, also the name of its recipe with underscores.
        description: for the manifest.
        summary: for the card.
        training: how it was fitted, for the card.
        measured: of what its numbers are, for the card.
        density: images to nats by component.
        sampler: noise and component to images.
        density_name: the density's architecture.
        sampler_name: the sampler's architecture.
        config: of both modules.
        weights: of the components.
        labels: of the components, where they are classes.
        limits: for the card.
        options: of the manifest, beside those of all densities.
        density_config: of the density alone.
        sampler_config: of the sampler alone.
    """

    id: str
    description: str
    summary: str
    training: str
    measured: str
    density: nn.Module
    sampler: nn.Module
    density_name: str
    sampler_name: str
    config: Mapping[str, Any]
    weights: Sequence[float] = (1.0,)
    labels: Sequence[str] = ()
    limits: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    density_config: Mapping[str, Any] = field(default_factory=dict)
    sampler_config: Mapping[str, Any] = field(default_factory=dict)


def rows(split: digits.Split) -> tuple[Array, NDArray[np.int64]]:
    """A split dequantised `DRAWS` times, ``[draws * n, 64]`` in [0, 1], and the digits."""
    first = {"train": 200, "validation": 50, "test": 100}[split]
    images = torch.cat([digits.dequantized(split, seed=first + i) for i in range(DRAWS)])
    target = digits.levels(split)[1].repeat(DRAWS)
    return images.flatten(1).double().numpy(), target.numpy()


def images_of(rows: Array) -> Tensor:
    """Rows as images ``[n, 1, 8, 8]``, in the single precision of the service."""
    return torch.from_numpy(rows).float().view(-1, 1, digits.SIDE, digits.SIDE)


def gaussians(
    means: Array, covariances: Array, covariance: Covariance
) -> tuple[MixtureDensity, MixtureSampler]:
    """Both modules of Gaussian components; the factors are found here, and never again.

    Args:
        means: ``[k, d]``.
        covariances: ``[k, d, d]``, or their diagonals ``[k, d]``.
        covariance: which.
    """
    count = len(means)
    density: MixtureDensity = (
        GaussianDensity(covariance=covariance)
        if count == 1
        else MixtureDensity(components=count, covariance=covariance)
    )
    sampler = MixtureSampler(components=count, covariance=covariance)
    if covariance == "diagonal":
        factors = np.sqrt(covariances)
        whitening = 1 / factors
    else:
        factors = np.linalg.cholesky(covariances)
        identity = torch.eye(means.shape[1], dtype=torch.float64).expand(count, -1, -1)
        lower = torch.from_numpy(factors)
        whitening = torch.linalg.solve_triangular(lower, identity, upper=False).numpy()
    with torch.no_grad():
        density.mean.copy_(torch.from_numpy(means))
        density.whitening.copy_(torch.from_numpy(whitening))
        sampler.mean.copy_(torch.from_numpy(means))
        sampler.factor.copy_(torch.from_numpy(factors))
    return density.eval(), sampler.eval()


@torch.no_grad()
def log_joint(fitted: Fitted, images: Tensor) -> Tensor:
    """``log w_k + log p_k(x)`` ``[n, k]``, as it is served, in double precision."""
    given = fitted.density(images)
    log_density = given[0] if isinstance(given, tuple) else given
    return log_density.double() + torch.tensor(fitted.weights, dtype=torch.float64).log()


def histogram() -> float:
    """Bits per dimension of an independent histogram for each pixel, on the test split."""
    levels = [digits.levels(split)[0].flatten(1) for split in ("train", "test")]
    return round(histogram_bits_per_dim(*levels, levels=digits.LEVELS, prior=0.1), 4)


def bits(nats: Tensor) -> dict[str, float]:
    """Bits per dimension of ``[draws * n]`` log-likelihoods in nats, and the mean's error."""
    by_draw = bits_per_dim(nats).view(DRAWS, -1).mean(dim=1)
    return {
        "bits_per_dim": round(float(by_draw.mean()), 4),
        "bits_per_dim_standard_error": round(float(by_draw.std() / DRAWS**0.5), 4),
    }


def accuracy(joint: Tensor, target: NDArray[np.int64]) -> float:
    """Share of images whose likeliest class is their own."""
    return round(float((joint.argmax(dim=1).numpy() == target).mean()), 4)


def draw(fitted: Fitted, count: int = SAMPLES, seed: int = 16) -> Tensor:
    """Images ``[count, 1, 8, 8]``; where there are classes, as many of each as of the others."""
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(count, digits.DIMENSIONS, generator=source)
    if fitted.labels:
        component = torch.arange(count) % len(fitted.labels)
    else:
        shares = torch.tensor(fitted.weights)
        component = torch.multinomial(shares, count, replacement=True, generator=source)
    with torch.no_grad():
        return fitted.sampler(z=z, component=component).float()


def package(fitted: Fitted, metrics: Mapping[str, Any], nats: Tensor) -> Package:
    """Both directions with their numbers, card and samples.

    Args:
        fitted: the density.
        metrics: its numbers on the test split.
        nats: log-likelihoods of the test images, for the percentiles.
    """
    image = (1, digits.SIDE, digits.SIDE)
    options: dict[str, Any] = {"reference_log_likelihoods": quantiles(nats), **fitted.options}
    if len(fitted.weights) > 1:
        options["weights"] = list(fitted.weights)
    if fitted.labels:
        options["labels"] = list(fitted.labels)
    columns = len(fitted.labels) or 16
    samples = draw(fitted, columns * (SAMPLES // columns))
    return Package(
        id=fitted.id,
        family="density",
        description=fitted.description,
        networks=[
            NetworkExport(
                name="density",
                architecture=fitted.density_name,
                module=fitted.density,
                inputs={"x": Input(image, "unit")},
                config={**fitted.config, **fitted.density_config},
                closed_form=True,
            ),
            NetworkExport(
                name="sampler",
                architecture=fitted.sampler_name,
                module=fitted.sampler,
                inputs={
                    "z": Input((digits.DIMENSIONS,)),
                    "component": Input((), "integer", len(fitted.weights)),
                },
                config={**fitted.config, **fitted.sampler_config},
                closed_form=True,
            ),
        ],
        options=options,
        metrics=metrics,
        card=card(fitted),
        sheet=samples,
        sheet_columns=columns,
        sheet_zoom=5,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
        pixel_range=(0.0, 1.0),
    )


def card(fitted: Fitted) -> Card:
    """The model card's words."""
    sheet = (
        f"The sheet shows samples, a column for each of {len(fitted.labels)} digits."
        if fitted.labels
        else "The sheet shows samples."
    )
    return Card(
        title=fitted.id,
        summary=f"{fitted.summary} {sheet}",
        data=digits.DATA_CARD,
        training=fitted.training,
        measured=fitted.measured,
        limits=(
            "A yardstick: what a generator's likelihood has to beat before it is worth its cost.",
            *fitted.limits,
            "Percentiles are among the test images.",
        ),
        recipe=f"model_store.recipes.{fitted.id.replace('-', '_')}",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("density", "likelihood"),
    )


EIGHT_BITS = (
    f"On the test split, mean of {DRAWS} dequantisation draws. Bits per dimension are per pixel of "
    "the 8-bit form; spreading 17 levels over 256 values alone costs 3.91 of them. The density is "
    "of the whole line, and mass outside of [0, 1] is counted as lost."
)
