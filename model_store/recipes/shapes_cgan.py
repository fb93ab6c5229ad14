"""Train the conditional GAN: ``python -m model_store.recipes.shapes_cgan``.

Relativistic pairing loss with zero-centred penalties on real and made images (Huang et al., 2024,
arXiv:2501.05441), the penalties by random differences (Lin et al., 2025, arXiv:2501.08316, section
3.3), so that no second derivative is needed. The label is the shape.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.gan import ConditionalGenerator, ProjectionDiscriminator
from model_store.recipes import shapes
from model_store.recipes.training import (
    Run,
    arguments,
    averaged,
    learning_rate,
    set_learning_rate,
)

BATCH = 64
LATENT = 64
PENALIZED = 32
PEAK_RATE = 1e-3
PENALTY_NOISE = 0.05
PENALTY_WEIGHT = 200.0
"""With `PENALTY_NOISE` this equals an R1 gamma of 1: gamma / 2 = weight * noise ** 2."""
LABEL_WEIGHT = 0.3


def discriminator_loss(
    discriminator: Callable[..., Any], real: Tensor, fake: Tensor, label: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairing loss plus penalties and label reading, and the scores ``[n]`` of the real images.

    ``noise`` is ``[2k, 3, 32, 32]``: the first ``k`` rows of each kind are penalised.
    """
    count, few = len(real), len(noise) // 2
    moved = torch.cat([real[:few], fake[:few]]) + PENALTY_NOISE * noise
    images = torch.cat([real, fake, moved])
    labels = torch.cat([label, label, label[:few], label[:few]])
    scores, logits = discriminator(images, labels)
    score_real, score_fake = scores[:count], scores[count : 2 * count]
    still = torch.cat([score_real[:few], score_fake[:few]])
    penalty = 2 * (scores[2 * count :] - still).square().mean()
    pairing = functional.softplus(score_fake - score_real).mean()
    reading = functional.cross_entropy(logits[:count], label)
    return pairing + PENALTY_WEIGHT * penalty + LABEL_WEIGHT * reading, score_real.detach()


def generator_loss(
    discriminator: Callable[..., Any], score_real: Tensor, fake: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """The pairing loss from the other side plus label reading, and the mean margin real - fake."""
    score_fake, logits = discriminator(fake, label)
    margin = score_real - score_fake
    reading = functional.cross_entropy(logits, label)
    return functional.softplus(margin).mean() + LABEL_WEIGHT * reading, margin.detach().mean()


def train(options: argparse.Namespace) -> nn.Module:
    """Train until the time is spent; the averaged generator, in eval mode."""
    generator, discriminator = ConditionalGenerator(), ProjectionDiscriminator()
    average = averaged(generator, 0.998)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=PEAK_RATE, betas=(0.0, 0.99))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=PEAK_RATE, betas=(0.0, 0.99))
    run = Run(
        "shapes-cgan",
        options.minutes,
        options.workspace,
        {
            "generator": generator,
            "discriminator": discriminator,
            "average": average,
            "optimizer_g": optimizer_g,
            "optimizer_d": optimizer_d,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        rate = learning_rate(run.progress, PEAK_RATE)
        set_learning_rate(optimizer_g, rate)
        set_learning_rate(optimizer_d, rate)
        real, factors = shapes.batch(BATCH, "train", run.generator)
        label = factors[:, 0]
        fake = generator(torch.randn(BATCH, LATENT, generator=run.generator), label)
        noise = torch.randn(PENALIZED, *real.shape[1:], generator=run.generator)
        loss_d, score_real = discriminator_loss(discriminator, real, fake.detach(), label, noise)
        optimizer_d.zero_grad(set_to_none=True)
        loss_d.backward()
        optimizer_d.step()

        discriminator.requires_grad_(False)
        loss_g, margin = generator_loss(discriminator, score_real, fake, label)
        optimizer_g.zero_grad(set_to_none=True)
        loss_g.backward()
        optimizer_g.step()
        discriminator.requires_grad_(True)
        average.update_parameters(generator)
        if step % 100 == 0:
            run.log(d=float(loss_d.detach()), g=float(loss_g.detach()), margin=float(margin))
    return average.module.eval()


def main() -> None:
    """Train the model."""
    train(arguments(__doc__ or "", minutes=45))


if __name__ == "__main__":
    main()
