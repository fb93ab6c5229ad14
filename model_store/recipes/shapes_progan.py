"""Train the progressively grown GAN: ``python -m model_store.recipes.shapes_progan``.

Karras et al., 2018, arXiv:1710.10196: both players begin with images of 8x8, then layers for 16x16
and for 32x32 fade in. Equalised learning rates, pixel normalisation and the minibatch's standard
deviation are the paper's; the loss is the non-saturating one with R1 (Mescheder et al., 2018,
arXiv:1801.04406), as in the authors' next networks.
"""

from __future__ import annotations

import argparse
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.progan import (
    SIDES,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
)
from model_store.evaluation import judge
from model_store.evaluation.metrics.distances import frechet_distance
from model_store.evaluation.metrics.manifolds import coverage
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.evaluation.suite.features import ShapesClassifier
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import shapes
from model_store.recipes.growth import follow, made_at, moment, real_at
from model_store.recipes.players import Players
from model_store.recipes.training import arguments

ID = "shapes-progan"
LATENT = 64
CHANNELS = [64, 48, 24, 12]
CONFIG: dict[str, Any] = {"latent": LATENT, "channels": CHANNELS}
POOL = 12_000
BATCHES = (64, 48, 32)
"""Images of a step at each resolution."""
RATE = 2e-3
DECAY = 0.998
LATE_SHARE = 0.25
"""Share of the time at the end in which the learning rate falls to zero."""
PENALTY = 0.2
"""Half of R1's gamma (eq. 9)."""
PENALTY_EVERY = 8
FOLLOWED = 512
MEASURED = 1000
NARROW = 0.75
"""Share of real images' own coverage below which samples are called collapsed."""
RARE = 0.3
"""Share of an even part below which a shape or colour is called missing."""
SHEET_COLUMNS = 16


def pool(count: int) -> Tensor:
    """``count`` training images as uint8 ``[count, 3, 32, 32]``."""
    return torch.cat([_levels(images) for images, _ in shapes.pool(count, seed=0)])


def _levels(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


def rate(progress: float) -> float:
    """The learning rate of both players: constant, then falling to zero."""
    return RATE * min(1.0, (1 - progress) / LATE_SHARE)


def opponent_loss(
    discriminator: nn.Module, real: Tensor, made: Tensor, at: tuple[int, float], *, penalized: bool
) -> Tensor:
    """The non-saturating loss; R1 where ``penalized``, for all the steps until the next time."""
    real = real.requires_grad_(penalized)
    score_real = discriminator(real, *at)
    loss = functional.softplus(-score_real).mean()
    loss = loss + functional.softplus(discriminator(made, *at)).mean()
    if penalized:
        (gradient,) = torch.autograd.grad(score_real.sum(), real, create_graph=True)
        squares = gradient.flatten(1).square().sum(dim=1).mean()
        loss = loss + PENALTY * PENALTY_EVERY * squares
    return loss


def train(options: argparse.Namespace) -> tuple[ProgressiveGenerator, str]:
    """Play the game; the generator of averaged weights, and how long it took."""
    generator, discriminator = ProgressiveGenerator(**CONFIG), ProgressiveDiscriminator(CHANNELS)
    images = pool(POOL)
    players = Players(ID, generator, discriminator, options, decay=DECAY, fused=True)
    run = players.run
    for step in run.steps():
        at = moment(run.progress)
        players.set_rates(rate(run.progress), rate(run.progress))
        count = BATCHES[at.stage]
        rows = torch.randint(len(images), (count,), generator=run.generator)
        real = real_at(images[rows].float() / 127.5 - 1, at)
        made = made_at(generator, torch.randn(count, LATENT, generator=run.generator), at)
        loss_d = opponent_loss(
            discriminator, real, made.detach(), at, penalized=step % PENALTY_EVERY == 0
        )
        players.opponent_learns(loss_d)

        with players.opponent_still():
            loss_g = functional.softplus(-discriminator(made, *at)).mean()
            players.generator_learns(loss_g)
        if step % 100 == 0:
            run.log(side=SIDES[at.stage], d=float(loss_d.detach()), g=float(loss_g.detach()))
    final = cast(ProgressiveGenerator, players.average.module.eval())
    follow(final, torch.randn(FOLLOWED, LATENT, generator=torch.Generator().manual_seed(5)))
    return final, run.summary()


@torch.no_grad()
def make(generator: nn.Module, count: int, seed: int) -> list[Tensor]:
    """Images of the same noise at each resolution, ``[count, 3, s, s]`` for each of `SIDES`."""
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    parts = zip(*(generator(part) for part in z.split(200)), strict=True)
    return [torch.cat(images).clamp(-1, 1) for images in parts]


def compared(images: Tensor) -> dict[str, float]:
    """Images ``[n, 3, 32, 32]`` against as many of held-out combinations."""
    test, _ = shapes.batch(MEASURED, "test", torch.Generator().manual_seed(21))
    judged = ShapesClassifier()
    made, real = judged.vectors(_levels(images)), judged.vectors(_levels(test))
    found = {"fid_shapes_classifier": frechet_distance(made, real)}
    return {
        name: round(value, 4) for name, value in (found | coverage(made, real)._asdict()).items()
    }


def measure(generator: nn.Module) -> dict[str, Any]:
    """What the judge reads in samples, how they compare with held-out shapes, and the growth."""
    *coarser, finest = make(generator, MEASURED, seed=12)
    read = judge.read_factors(finest)
    train_images, _ = shapes.batch(MEASURED, "train", torch.Generator().manual_seed(22))
    shares = {
        name: {
            value: round(float((read[:, i] == j).float().mean()), 4)
            for j, value in enumerate(values)
        }
        for i, (name, values) in enumerate(shapes.FACTORS.items())
        if name in ("shape", "color")
    }
    return {
        **compared(finest),
        "confidence": judge.confidence(finest),
        "evenness": judge.factors_evenness(read),
        "share": shares,
        "coarser_psnr_db": {
            str(side): round(
                peak_signal_to_noise(images, functional.avg_pool2d(finest, SIDES[-1] // side)), 2
            )
            for side, images in zip(SIDES, coarser, strict=False)
        },
        "samples": MEASURED,
        "real": {**compared(train_images), "confidence": judge.confidence(train_images)},
    }


def collapse(metrics: dict[str, Any]) -> str:
    """What the card says of mode collapse, from the numbers of `measure`."""
    missing = [
        value
        for shares in metrics["share"].values()
        for value, share in shares.items()
        if share < RARE / len(shares)
    ]
    reached = f"coverage is {metrics['coverage']:.2f}, recall {metrics['recall']:.2f}; training "
    reached += f"images reach {metrics['real']['coverage']:.2f} and {metrics['real']['recall']:.2f}"
    if missing:
        return (
            f"Mode collapse: {', '.join(missing)} come less than {RARE:g} times as often as in the "
            f"data; {reached}."
        )
    if metrics["coverage"] < NARROW * metrics["real"]["coverage"]:
        return f"Mode collapse: every shape and colour comes, but {reached}."
    return f"No shape or colour is lost to mode collapse; {reached}."


@torch.no_grad()
def sheet(generator: nn.Module) -> Tensor:
    """Five rows of samples, then one scene a column: 8x8, 16x16 and half faded in, and 32x32."""
    coarsest, middle, finest = make(generator, 6 * SHEET_COLUMNS, seed=13)
    last = slice(5 * SHEET_COLUMNS, None)
    doubled = functional.interpolate(middle[last], scale_factor=2.0)
    rows = [
        finest[: 5 * SHEET_COLUMNS],
        functional.interpolate(coarsest[last], scale_factor=4.0),
        doubled,
        torch.lerp(doubled, finest[last], 0.5),
        finest[last],
    ]
    return torch.cat(rows)


def package(generator: ProgressiveGenerator, took: str) -> Package:
    """The generator with its numbers, card and samples."""
    metrics = measure(generator)
    return Package(
        id=ID,
        family="gan",
        description="Progressively grown GAN of colored shapes: 8x8, 16x16 and 32x32, and every "
        "fade between.",
        networks=[
            NetworkExport(
                name="generator",
                architecture="progressive_generator",
                module=generator,
                inputs={"z": Input((LATENT,))},
                config=CONFIG,
            )
        ],
        options={"latent": {"shape": [LATENT]}, "growth": {"resolutions": list(SIDES)}},
        metrics=metrics,
        card=card(metrics, took),
        sheet=sheet(generator),
        sheet_columns=SHEET_COLUMNS,
    )


def card(metrics: dict[str, Any], took: str) -> Card:
    """The model card's words."""
    return Card(
        title=ID,
        summary="A progressively grown GAN of one colored shape on a flat background. `resolution` "
        "chooses one of the resolutions of its growth, `alpha` how much of that has faded in over "
        "the one below. On the sheet the first rows are samples; of the last four, each column is "
        "one scene at 8x8, at 16x16, half faded in, and at 32x32.",
        data=shapes.DATA_CARD,
        training="Both players begin at 8x8; the layers of 16x16 and then of 32x32 fade in. "
        "Equalised learning rates, pixel normalisation, the minibatch's standard deviation; the "
        f"non-saturating loss with R1 on every {PENALTY_EVERY}th step, Adam at {RATE:g}, batches "
        f"of {', '.join(map(str, BATCHES))}, an average of the generator's weights. Last, the "
        "output layers of 8x8 and 16x16 are fitted by least squares to the images of 32x32, "
        f"shrunk, since growth leaves them behind. {took}, on one busy CPU thread.",
        measured=f"{MEASURED:,} samples at 32x32 against as many images of held-out combinations, "
        "between features of this project's factor classifier: `fid_shapes_classifier` compares "
        "with nothing but numbers of the same classifier; `precision`, `density`, `recall` and "
        "`coverage` by five neighbours. `confidence` is the mean probability of what is read, "
        "`evenness` each factor's entropy over its largest, `share` how often a shape or colour is "
        "read. `coarser_psnr_db` compares the image at a coarser resolution with the finest one, "
        "shrunk. `real` is what as many training images score.",
        limits=(
            collapse(metrics),
            "One network evaluation, no likelihood: the discriminator's score is no density, and "
            "is not shipped.",
            "Nothing but the noise decides what is drawn.",
            "A coarse resolution is what the final generator makes of it, not what it made when "
            "that was its finest.",
        ),
        recipe="model_store.recipes.shapes_progan",
        pipeline_tag="unconditional-image-generation",
        dataset="atelier/captioned-shapes",
        tags=("gan", "progan"),
    )


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=30)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
