"""Train a DCGAN of handwritten digits: ``python -m model_store.recipes.digits_dcgan``.

Radford et al., 2015, arXiv:1511.06434: strided convolutions, batch normalisation in both players,
the non-saturating loss, Adam with a first moment of 0.5.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.digit_gan import StridedCritic, StridedGenerator
from model_store.export.folding import folded
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_gans as gans
from model_store.recipes.players import Players
from model_store.recipes.training import arguments, learning_rate

LATENT = 32
CONFIG: dict[str, Any] = {"latent": LATENT, "width": 28}
BATCH = 64
RATE = 4e-4
MOMENTA = (0.5, 0.99)


def train(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Play the game; the generator with averaged weights, and how long it took."""
    generator, critic = StridedGenerator(**CONFIG), StridedCritic(32, normalized=True)
    players = Players(
        "digits-dcgan",
        generator,
        critic,
        options,
        decay=0.999,
        betas=MOMENTA,
        names=("generator", "critic"),
    )
    run = players.run
    for step in run.steps():
        rate = learning_rate(run.progress, RATE)
        players.set_rates(rate, rate)
        fake = generator(torch.randn(BATCH, LATENT, generator=run.generator))
        score_real = critic(gans.shown(gans.reals(BATCH, run.generator), run.generator))
        score_fake = critic(gans.shown(fake.detach(), run.generator))
        loss_d = functional.softplus(-score_real).mean() + functional.softplus(score_fake).mean()
        players.opponent_learns(loss_d)

        with players.opponent_still():
            loss_g = functional.softplus(-critic(gans.shown(fake, run.generator))).mean()
            players.generator_learns(loss_g)
        if step % 200 == 0:
            run.log(d=float(loss_d.detach()), g=float(loss_g.detach()))
    source = torch.Generator().manual_seed(5)
    final = gans.settled(
        players.average.module, lambda count: {"z": torch.randn(count, LATENT, generator=source)}
    )
    return final, run.summary()


@torch.no_grad()
def make(generator: nn.Module, count: int, seed: int) -> Tensor:
    """Images ``[count, 1, 8, 8]``."""
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    images: Tensor = generator(z)
    return images


GAN = gans.DigitGan(
    id="digits-dcgan",
    description="DCGAN of 8x8 handwritten digits: strided convolutions, no labels.",
    summary="A deep convolutional GAN of 8x8 handwritten digits: noise to an image by three "
    "fractionally strided convolutions with batch normalisation (served in eval mode), "
    "rectifiers and a final tanh.",
    training=f"Non-saturating loss, Adam, batch {BATCH}, an average of the generator's "
    "weights whose normalisation is settled afterwards.",
    limits=(
        ("One network evaluation, no likelihood: a GAN gives no image a density.",),
        ("Which digit comes cannot be asked for.",),
    ),
    tags=("dcgan",),
)


def package(generator: nn.Module, took: str) -> Package:
    """The generator with its numbers, card and samples."""
    network = NetworkExport(
        name="generator",
        architecture="strided_generator",
        module=folded(generator),
        inputs={"z": Input((LATENT,))},
        config={**CONFIG, "normalized": False},
    )
    metrics = gans.measure(make(generator, gans.MEASURED, seed=12))
    sheet = make(generator, 5 * gans.SHEET_COLUMNS, seed=13)
    return gans.package(GAN, [network], {"latent": {"shape": [LATENT]}}, metrics, sheet, took)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=4)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
