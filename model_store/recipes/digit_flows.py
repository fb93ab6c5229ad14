"""What the recipes of the flows of handwritten digits share: training, numbers, card, package."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from model_store.architectures.logit_flow import LogitFlow
from model_store.evaluation.likelihood import (
    bits_per_dim,
    gaussian_bits_per_dim,
    histogram_bits_per_dim,
)
from model_store.evaluation.reference import quantiles
from model_store.export.card import Card
from model_store.export.network import NetworkExport
from model_store.export.package import Package
from model_store.recipes import digits
from model_store.recipes.early_stopping import Settings, fit
from services.sampling import bounds

BATCH = 128
SHIFT_CHANCE = 0.1
DRAWS = 10
"""Dequantisation draws that every number on the test split is the mean of."""
SAMPLES = 96
IMAGE = (1, digits.SIDE, digits.SIDE)
Flow = TypeVar("Flow", bound=LogitFlow)


class Directions(Protocol):
    """A flow in both directions, whatever its `forward` is."""

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[n, 1, 8, 8]`` in [0, 1] to ``z`` ``[n, 64]`` and ``[n]`` nats."""
        ...

    def inverse(self, z: Tensor) -> Tensor:
        """``z`` back to images."""
        ...


@dataclass(frozen=True, slots=True)
class FlowRecipe:
    """What one flow's recipe says of itself.

    Attributes:
        id: of the model, also the name of its recipe with underscores.
        title: what it is, in a few words.
        summary: for the card.
        settings: how to train.
        tags: for the card.
        limits: for the card, beside those of all flows.
        options: of the manifest, beside those of all flows.
        training: words for the card, if likelihood was not maximised as the others do.
    """

    id: str
    title: str
    summary: str
    settings: Settings
    tags: Sequence[str] = ()
    limits: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    training: str = ""


def log_likelihood(flow: Directions, x: Tensor) -> Tensor:
    """Nats of the 8-bit images whose dequantised form is ``x``: ``[n]``."""
    z, log_det = flow.transform(x)
    width = digits.DIMENSIONS * torch.tensor(256.0).log()
    return bounds.standard_normal_log_density(z) + log_det - width


def standardize(network: LogitFlow) -> None:
    """Set the first affine layer so that every training pixel's logit has mean 0 and variance 1."""
    with torch.no_grad():
        network.shift.zero_()
        network.log_scale.zero_()
        logit, _ = network.squash(digits.dequantized("train", seed=5))
        network.shift.copy_(logit.mean(dim=0, keepdim=True))
        network.log_scale.copy_(logit.std(dim=0, keepdim=True).log())


def train(network: Flow, recipe: FlowRecipe, options: argparse.Namespace) -> tuple[Flow, str]:
    """Maximise the likelihood until the time is spent.

    Returns:
        The averaged weights that did best on validation, rounded to the half precision in which
        they are stored, and how long it took.
    """
    images, _ = digits.levels("train")
    held_out = torch.cat([digits.dequantized("validation", seed=s) for s in (6, 7, 8)])

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        x = digits.augmented(images[rows], generator, chance=SHIFT_CHANCE)
        return bits_per_dim(log_likelihood(cast(Directions, network), x)).mean()

    flow, summary = fit(
        recipe.id,
        network,
        loss,
        lambda found: bits_per_dim(log_likelihood(cast(Directions, found), held_out)).mean(),
        options,
        recipe.settings,
    )
    return cast(Flow, stored(flow)), summary


def stored(flow: nn.Module) -> nn.Module:
    """The flow as its files hold it: what is measured is what is served."""
    state = flow.state_dict()
    flow.load_state_dict(
        {name: v.half().float() if v.is_floating_point() else v for name, v in state.items()}
    )
    return flow.eval()


def held_out_draws() -> Tensor:
    """The test split, dequantised `DRAWS` times: ``[draws * 360, 1, 8, 8]``."""
    return torch.cat([digits.dequantized("test", seed=100 + i) for i in range(DRAWS)])


def baselines(x: Tensor) -> dict[str, float]:
    """Bits per dimension of an independent histogram and of a full Gaussian, on the same draws.

    Args:
        x: `held_out_draws`.
    """
    train = torch.cat([digits.dequantized("train", seed=200 + i) for i in range(DRAWS)])
    levels = [digits.levels(split)[0].flatten(1) for split in ("train", "test")]
    histogram = histogram_bits_per_dim(*levels, levels=digits.LEVELS, prior=0.1)
    gaussian = gaussian_bits_per_dim(train.flatten(1), x.flatten(1), shrinkage=1e-5)
    return {
        "baseline_histogram_bits_per_dim": round(histogram, 4),
        "baseline_gaussian_bits_per_dim": round(gaussian, 4),
    }


@torch.no_grad()
def measure(flow: Directions) -> tuple[dict[str, Any], Tensor]:
    """The numbers of a card, and the log-likelihoods of the test images in nats."""
    x = held_out_draws()
    nats = log_likelihood(flow, x)
    by_draw = bits_per_dim(nats).view(DRAWS, -1).mean(dim=1)
    z, _ = flow.transform(x)
    numbers = {
        "bits_per_dim": round(float(by_draw.mean()), 4),
        "bits_per_dim_standard_error": round(float(by_draw.std() / DRAWS**0.5), 4),
        **baselines(x),
        "round_trip_max_error": float(f"{float((flow.inverse(z) - x).abs().max()):.3g}"),
        "images": len(x) // DRAWS,
    }
    return numbers, nats


def package(
    flow: nn.Module, recipe: FlowRecipe, networks: Sequence[NetworkExport], summary: str
) -> Package:
    """Both directions with their numbers, card and samples."""
    directions = cast(Directions, flow)
    numbers, nats = measure(directions)
    z = torch.randn(SAMPLES, digits.DIMENSIONS, generator=torch.Generator().manual_seed(16))
    with torch.no_grad():
        samples = directions.inverse(z)
    return Package(
        id=recipe.id,
        family="flow",
        description=f"{recipe.title} of handwritten digits at 8x8: exact likelihood and inverse.",
        networks=networks,
        options={
            "latent": {"shape": [digits.DIMENSIONS]},
            "reference_log_likelihoods": quantiles(nats),
            **recipe.options,
        },
        metrics=numbers,
        card=card(recipe, summary),
        sheet=samples,
        sheet_columns=16,
        sheet_zoom=5,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
        pixel_range=(0.0, 1.0),
    )


def card(recipe: FlowRecipe, summary: str) -> Card:
    """The model card's words."""
    return Card(
        title=recipe.id,
        summary=f"{recipe.summary} The sheet shows samples at temperature 1.",
        data=digits.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread: AdamW with weight decay, dropout, "
        "fresh dequantisation noise, a tenth of the images moved by one pixel, averaged weights, "
        f"early stopping on the validation split. {recipe.training}".strip(),
        measured=f"On the test split, mean of {DRAWS} dequantisation draws, the baselines on the "
        "same draws, with the weights as they are stored, in half precision. Bits per dimension "
        "are per pixel of the 8-bit form; spreading 17 levels over 256 values alone costs 3.91 of "
        "them.",
        limits=(
            "Likelihoods compare images of this kind and size; a high one does not mean that an "
            "image is a good digit (raw likelihood prefers simple images).",
            "Some samples are no readable digit: 1,257 images are few for a flow.",
            *recipe.limits,
            "Percentiles are among the test images.",
        ),
        recipe=f"model_store.recipes.{recipe.id.replace('-', '_')}",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("normalizing-flow", "likelihood", *recipe.tags),
    )


def trained(
    build: Callable[[], Flow], recipe: FlowRecipe, options: argparse.Namespace
) -> tuple[Flow, str]:
    """Build from a fixed seed, standardise, train; see `train`."""
    torch.manual_seed(0)
    network = build()
    standardize(network)
    return train(network, recipe, options)
