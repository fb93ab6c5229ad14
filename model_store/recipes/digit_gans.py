"""What the GANs of handwritten digits share: their images, their numbers, their cards' words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from model_store.evaluation import digits_judge, judge
from model_store.evaluation.metrics.distances import frechet_distance, kernel_distance
from model_store.evaluation.metrics.manifolds import coverage
from model_store.export.card import Card
from model_store.export.network import NetworkExport
from model_store.export.package import Package
from model_store.recipes import digits

IMAGE = (1, digits.SIDE, digits.SIDE)
MEASURED = 1000
SHIFTED = 0.4
NOISE = 0.06
BACKGROUND = 1 / digits.LEVELS - 1
SETTLING = 100
SHEET_COLUMNS = 16
SHEET_ZOOM = 4
FEWEST = 0.03
"""Share of samples below which a digit is called missing; each is a tenth of the data."""
NARROW = 0.75
"""Share of the training images' own coverage below which samples are called collapsed."""
DATA_CARD = (
    "scikit-learn's `load_digits` (a copy of the test set of the UCI Optical Recognition "
    "of Handwritten Digits data, CC BY 4.0, Alpaydin and Kaynak, 1998, "
    "doi:10.24432/C50P49): 1,797 images of 8x8 with 17 grey levels, split by digit and a fixed "
    "seed into 1,257 to train, 180 for choosing, 360 to test. A level stands in the middle of the "
    "17th of [-1, 1] that it covers."
)
SHOWN = (
    f"Every image that the opponent sees, real or made, is moved by a pixel in {SHIFTED:.0%} of "
    f"cases and gets Gaussian noise of {NOISE} (after Zhao et al., 2020, arXiv:2006.10738), so "
    "that 1,257 images are not learned by heart."
)
MEASURED_WORDS = (
    f"{MEASURED:,} samples against the test split. `fid_digits_classifier` and "
    "`kid_digits_classifier` are the distances of Heusel et al. (2017) and Binkowski et al. "
    "(2018) between features of a digit classifier of this project: they compare with nothing but "
    "numbers of the same classifier, least of all with Inception's. `precision`, `density`, "
    "`recall` and `coverage` are between the same features, five neighbours. `digit_evenness` is "
    "the entropy of the digits that the classifier reads, over its largest. `confident` is the "
    "share that it reads with a probability of 0.9 or more. `nearest_training_image` is the mean "
    "distance in pixels to the closest training image: far below that of the test split, samples "
    "would be copies. `real` holds what as many training images score, which is what a perfect "
    "generator would get."
)


@dataclass(frozen=True, slots=True)
class DigitGan:
    """What one GAN of digits says of itself; what all of them say is added.

    Attributes:
        id: of the model; its recipe has the same name.
        description: for the manifest.
        summary: for the card.
        training: words for the card, before those of what the opponent sees.
        limits: for the card: those before what is said of mode collapse, and those after it.
        measured: words for the card, beside those of the numbers that all have.
        tags: for the card, beside ``gan``.
    """

    id: str
    description: str
    summary: str
    training: str
    limits: tuple[Sequence[str], Sequence[str]]
    measured: str = ""
    tags: Sequence[str] = ()


def package(
    gan: DigitGan,
    networks: Sequence[NetworkExport],
    options: Mapping[str, Any],
    metrics: Mapping[str, Any],
    sheet: Tensor,
    took: str,
) -> Package:
    """The networks with their numbers, card and images.

    Args:
        gan: what it says of itself.
        networks: the generator first.
        options: of the manifest.
        metrics: those of `measure`, and perhaps more.
        sheet: images ``[n, 1, 8, 8]``, in rows of `SHEET_COLUMNS`.
        took: how long it was trained.
    """
    return Package(
        id=gan.id,
        family="gan",
        description=gan.description,
        networks=list(networks),
        options=options,
        metrics=metrics,
        card=card(gan, metrics, took),
        sheet=sheet,
        sheet_columns=SHEET_COLUMNS,
        sheet_zoom=SHEET_ZOOM,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
    )


def card(gan: DigitGan, metrics: Mapping[str, Any], took: str) -> Card:
    """The model card's words."""
    before, after = gan.limits
    return Card(
        title=gan.id,
        summary=gan.summary,
        data=DATA_CARD,
        training=f"{gan.training} {SHOWN} {took}, on one busy CPU thread.",
        measured=f"{MEASURED_WORDS} {gan.measured}".strip(),
        limits=(*before, collapse(metrics), *after),
        recipe=f"model_store.recipes.{gan.id.replace('-', '_')}",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("gan", *gan.tags),
    )


@cache
def images(split: digits.Split) -> Tensor:
    """A split's images in [-1, 1], each level in its middle: ``[n, 1, 8, 8]``."""
    return (digits.levels(split)[0].float() + 0.5) * (2 / digits.LEVELS) - 1


def reals(count: int, generator: torch.Generator) -> Tensor:
    """A fresh batch of training images."""
    every = images("train")
    return every[torch.randint(len(every), (count,), generator=generator)]


def shown(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Images as a critic sees them while training: some moved by a pixel, all with noise.

    Differentiable, and the same for real and made images, so that a generator learns neither.
    """
    seen = moved(batch, generator)
    return seen + NOISE * torch.randn(seen.shape, generator=generator)


def moved(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Images of which a share `SHIFTED` lies a pixel off; what comes in is background."""
    return digits.shift(batch - BACKGROUND, generator, chance=SHIFTED) + BACKGROUND


@torch.no_grad()
def settled(generator: nn.Module, draw: Callable[[int], dict[str, Tensor]]) -> nn.Module:
    """Batch normalisation's averages made again for averaged weights; the module in eval mode.

    Args:
        generator: whose weights are final.
        draw: inputs of a batch of as many images.
    """
    norms = [
        part for part in generator.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    generator.train()
    for _ in range(SETTLING):
        generator(**draw(128))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return generator.eval()


def measure(samples: Tensor) -> dict[str, Any]:
    """Samples ``[n, 1, 8, 8]`` in [-1, 1] against the test split, and training images likewise."""
    train = images("train")[: len(samples)]
    found = _compared(samples)
    found["digit_share"] = {str(digit): share for digit, share in enumerate(_shares(samples))}
    found["nearest_training_image"] = nearest_training_image(samples)
    found["samples"] = len(samples)
    real = _compared(train)
    real["nearest_training_image"] = nearest_training_image(images("test"))
    return {**found, "real": real}


def collapse(metrics: Mapping[str, Any]) -> str:
    """What a card says of mode collapse, from the numbers of `measure`."""
    shares = metrics["digit_share"]
    missing = [digit for digit, share in shares.items() if share < FEWEST]
    narrow = metrics["coverage"] < NARROW * metrics["real"]["coverage"]
    rarest = min(shares, key=lambda digit: shares[digit])
    if missing:
        return (
            f"Mode collapse: the digits {', '.join(missing)} come in less than {FEWEST:.0%} of "
            f"samples; coverage is {metrics['coverage']:.2f}, that of training images "
            f"{metrics['real']['coverage']:.2f}."
        )
    if narrow:
        return (
            "Mode collapse within digits: every digit comes, but coverage is "
            f"{metrics['coverage']:.2f} where training images reach "
            f"{metrics['real']['coverage']:.2f}."
        )
    return (
        f"No digit is lost to mode collapse: the rarest, {rarest}, makes {shares[rarest]:.1%} of "
        f"samples; coverage is {metrics['coverage']:.2f}, that of training images "
        f"{metrics['real']['coverage']:.2f}."
    )


def read(batch: Tensor) -> Tensor:
    """The digit that the classifier reads in each image, int64 ``[n]``."""
    return digits_judge.read(batch).logits.argmax(dim=1)


def nearest_training_image(batch: Tensor) -> float:
    """Mean Euclidean distance to the closest training image, in [-1, 1] pixels."""
    search = NearestNeighbors(n_neighbors=1).fit(images("train").flatten(1).numpy())
    distances, _ = search.kneighbors(batch.flatten(1).numpy())
    return round(float(distances.mean()), 3)


def _compared(batch: Tensor) -> dict[str, Any]:
    made, logits = digits_judge.read(batch)
    test, _ = digits_judge.read(images("test"))
    kernel = kernel_distance(made, test)
    spread = coverage(made, test)
    return {
        "fid_digits_classifier": round(frechet_distance(made, test), 4),
        "kid_digits_classifier": round(kernel.value, 4),
        **{name: round(value, 4) for name, value in spread._asdict().items()},
        "digit_evenness": round(judge.evenness(logits.argmax(1), digits.CLASSES), 4),
        "confident": round(float((logits.softmax(1).amax(1) >= 0.9).float().mean()), 4),
    }


def _shares(batch: Tensor) -> list[float]:
    counts = read(batch).bincount(minlength=digits.CLASSES)
    return [round(float(count) / len(batch), 4) for count in counts]
