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
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_gans as gans
from model_store.recipes.training import Run, arguments, averaged, learning_rate, set_learning_rate

LATENT = 32
CONFIG: dict[str, Any] = {"latent": LATENT, "width": 28}
BATCH = 64
RATE = 4e-4
MOMENTA = (0.5, 0.99)


def train(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Play the game; the generator with averaged weights, and how long it took."""
    generator, critic = StridedGenerator(**CONFIG), StridedCritic(32, normalized=True)
    average = averaged(generator, 0.999)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=RATE, betas=MOMENTA)
    optimizer_d = torch.optim.Adam(critic.parameters(), lr=RATE, betas=MOMENTA)
    run = Run(
        "digits-dcgan",
        options.minutes,
        options.workspace,
        {
            "generator": generator,
            "critic": critic,
            "average": average,
            "optimizer_g": optimizer_g,
            "optimizer_d": optimizer_d,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        for optimizer in (optimizer_g, optimizer_d):
            set_learning_rate(optimizer, learning_rate(run.progress, RATE))
        fake = generator(torch.randn(BATCH, LATENT, generator=run.generator))
        score_real = critic(gans.shown(gans.reals(BATCH, run.generator), run.generator))
        score_fake = critic(gans.shown(fake.detach(), run.generator))
        loss_d = functional.softplus(-score_real).mean() + functional.softplus(score_fake).mean()
        optimizer_d.zero_grad(set_to_none=True)
        loss_d.backward()
        optimizer_d.step()

        critic.requires_grad_(False)
        loss_g = functional.softplus(-critic(gans.shown(fake, run.generator))).mean()
        optimizer_g.zero_grad(set_to_none=True)
        loss_g.backward()
        optimizer_g.step()
        critic.requires_grad_(True)
        average.update_parameters(generator)
        if step % 200 == 0:
            run.log(d=float(loss_d.detach()), g=float(loss_g.detach()))
    source = torch.Generator().manual_seed(5)
    final = gans.settled(
        average.module, lambda count: {"z": torch.randn(count, LATENT, generator=source)}
    )
    return final, run.summary()


@torch.no_grad()
def make(generator: nn.Module, count: int, seed: int) -> Tensor:
    """Images ``[count, 1, 8, 8]``."""
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    images: Tensor = generator(z)
    return images


def package(generator: nn.Module, summary: str) -> Package:
    """The generator with its numbers, card and samples."""
    metrics = gans.measure(make(generator, gans.MEASURED, seed=12))
    return Package(
        id="digits-dcgan",
        family="gan",
        description="DCGAN of 8x8 handwritten digits: strided convolutions, no labels.",
        networks=[
            NetworkExport(
                name="generator",
                architecture="strided_generator",
                module=generator,
                inputs={"z": Input((LATENT,))},
                config=CONFIG,
            )
        ],
        options={"latent": {"shape": [LATENT]}},
        metrics=metrics,
        card=card(summary, metrics),
        sheet=make(generator, 80, seed=13),
        sheet_columns=16,
        sheet_zoom=4,
        resolution=(8, 8),
        channels=1,
    )


def card(summary: str, metrics: dict[str, Any]) -> Card:
    """The model card's words."""
    return Card(
        title="digits-dcgan",
        summary="A deep convolutional GAN of 8x8 handwritten digits: noise to an image by three "
        "fractionally strided convolutions with batch normalisation (served in eval mode), "
        "rectifiers and a final tanh.",
        data=gans.DATA_CARD,
        training=f"Non-saturating loss, Adam, batch {BATCH}, an average of the generator's "
        f"weights whose normalisation is settled afterwards. {gans.SHOWN} {summary}, on one busy "
        "CPU thread.",
        measured=gans.MEASURED_WORDS,
        limits=(
            "One network evaluation, no likelihood: a GAN gives no image a density.",
            gans.collapse(metrics),
            "Which digit comes cannot be asked for.",
        ),
        recipe="model_store.recipes.digits_dcgan",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("gan", "dcgan"),
    )


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=4)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
