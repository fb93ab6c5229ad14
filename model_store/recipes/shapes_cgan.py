"""Train the conditional GAN: ``python -m model_store.recipes.shapes_cgan``.

Relativistic pairing loss with zero-centred penalties on real and made images (Huang et al., 2024,
arXiv:2501.05441), the penalties by random differences (Lin et al., 2025, arXiv:2501.08316, section
3.3), so that no second derivative is needed. Half of what the discriminator sees carries noise, as
in Diffusion-GAN (Wang et al., 2023, arXiv:2206.02262): a reader of clean latents is fooled by
generators, one of noisy latents far less. The label is the shape.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.gan import ConditionalGenerator, ProjectionDiscriminator
from model_store.evaluation import judge
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import shapes, shapes_autoencoder
from model_store.recipes.latents import Standardizer, encode_pool
from model_store.recipes.training import (
    Run,
    arguments,
    averaged,
    learning_rate,
    set_learning_rate,
)

BATCH = 64
LATENT = 64
PENALIZED = 16
PEAK_RATE = 1e-3
PENALTY_NOISE = 0.05
PENALTY_WEIGHT = 20.0
"""With `PENALTY_NOISE` this equals an R1 gamma of 0.1: gamma / 2 = weight * noise ** 2."""
LABEL_WEIGHT = 0.5
READING_MINUTES = 5.0
READING_WEIGHT = 1.0
LARGEST_NOISE = 0.6
POOL = 60_000
LABELS = shapes.FACTORS["shape"]
CONFIG = {"labels": len(LABELS), "latent": LATENT, "style": 128, "width": 64, "blocks": 4}
READINGS = sum(len(values) for values in shapes.FACTORS.values())
MEASURED = 1200
SHEET_COLUMNS = 12
HISTORY = (
    "The weights in the catalog were not made in one go: they began with two residual blocks, ten "
    "times the penalty and no noise on what the discriminator sees, and were taken on from there."
)
"""What the card owes to its reader; to be emptied when the recipe has run once from its start."""


def reading_loss(logits: Tensor, factors: Tensor) -> Tensor:
    """Mean cross-entropy of the discriminator's reading of all six factors ``[n, 6]``."""
    parts = logits.split([len(values) for values in shapes.FACTORS.values()], dim=1)
    losses = [functional.cross_entropy(part, factors[:, i]) for i, part in enumerate(parts)]
    return torch.stack(losses).mean()


def blurred(latents: Tensor, generator: torch.Generator) -> Tensor:
    """``[n, ...]`` with Gaussian noise on half of the rows, of up to `LARGEST_NOISE`."""
    level = (2 * torch.rand(len(latents), 1, 1, 1, generator=generator) - 1).clamp(min=0)
    return latents + LARGEST_NOISE * level * torch.randn(latents.shape, generator=generator)


def discriminator_loss(
    discriminator: nn.Module, real: Tensor, fake: Tensor, factors: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairing loss plus penalties and reading, and the scores ``[n]`` of the real latents.

    ``noise`` is ``[2k, 8, 8, 8]``: the first ``k`` rows of each kind are penalised.
    """
    count, few = len(real), len(noise) // 2
    label = factors[:, 0]
    moved = torch.cat([real[:few], fake[:few]]) + PENALTY_NOISE * noise
    latents = torch.cat([real, fake, moved])
    scores, logits = discriminator(latents, torch.cat([label, label, label[:few], label[:few]]))
    score_real, score_fake = scores[:count], scores[count : 2 * count]
    still = torch.cat([score_real[:few], score_fake[:few]])
    penalty = 2 * (scores[2 * count :] - still).square().mean()
    pairing = functional.softplus(score_fake - score_real).mean()
    loss = (
        pairing + PENALTY_WEIGHT * penalty + READING_WEIGHT * reading_loss(logits[:count], factors)
    )
    return loss, score_real.detach()


def generator_loss(
    discriminator: nn.Module, score_real: Tensor, fake: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """The pairing loss from the other side plus label reading, and the mean margin real - fake."""
    score_fake, logits = discriminator(fake, label)
    margin = score_real - score_fake
    reading = functional.cross_entropy(logits[:, : len(LABELS)], label)
    return functional.softplus(margin).mean() + LABEL_WEIGHT * reading, margin.detach().mean()


def learn_to_read(
    discriminator: nn.Module, latents: Tensor, factors: Tensor, options: argparse.Namespace
) -> None:
    """Before the game, teach the discriminator what the factors of a scene look like.

    A discriminator that cannot tell a cross from a star cannot ask for either.
    """
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3, weight_decay=1e-2)
    run = Run(
        "shapes-cgan-reader",
        READING_MINUTES,
        options.workspace,
        {"discriminator": discriminator, "optimizer": optimizer},
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, 2e-3))
        rows = torch.randint(len(latents), (2 * BATCH,), generator=run.generator)
        spread = 0.2 * torch.rand(2 * BATCH, 1, 1, 1, generator=run.generator)
        noise = torch.randn(2 * BATCH, *latents.shape[1:], generator=run.generator)
        _, logits = discriminator(latents[rows] + spread * noise, factors[rows, 0])
        loss = reading_loss(logits, factors[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            guess = logits[:, : len(LABELS)].argmax(dim=1)
            right = (guess == factors[rows, 0]).float().mean()
            run.log(loss=float(loss.detach()), shape=float(right))


def train(options: argparse.Namespace) -> tuple[ConditionalGenerator, str]:
    """Train until the time is spent; the averaged generator in eval mode, and how long it took."""
    autoencoder = shapes_autoencoder.train(shapes_autoencoder.MINUTES, options.workspace)
    latents, factors = encode_pool(autoencoder.encoder, 1000 if options.export_only else POOL)
    standardizer = Standardizer()
    standardizer.fit(latents)
    latents = standardizer(latents)
    full = ConditionalGenerator(**CONFIG)
    generator = full.generator
    discriminator = ProjectionDiscriminator(standardizer.scale.sqrt(), len(LABELS), READINGS)
    learn_to_read(discriminator, latents, factors, options)
    average = averaged(generator, 0.999)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=PEAK_RATE, betas=(0.0, 0.99))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=PEAK_RATE, betas=(0.0, 0.99))
    run = Run(
        "shapes-cgan",
        options.minutes,
        options.workspace,
        {
            "generator": generator,
            "discriminator": discriminator,
            "standardizer": standardizer,
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
        rows = torch.randint(len(latents), (BATCH,), generator=run.generator)
        real, seen = latents[rows], factors[rows]
        fake = generator(torch.randn(BATCH, LATENT, generator=run.generator), seen[:, 0])
        real, fake = blurred(real, run.generator), blurred(fake, run.generator)
        noise = torch.randn(PENALIZED, *real.shape[1:], generator=run.generator)
        loss_d, score_real = discriminator_loss(discriminator, real, fake.detach(), seen, noise)
        optimizer_d.zero_grad(set_to_none=True)
        loss_d.backward()
        optimizer_d.step()

        discriminator.requires_grad_(False)
        loss_g, margin = generator_loss(discriminator, score_real, fake, seen[:, 0])
        optimizer_g.zero_grad(set_to_none=True)
        loss_g.backward()
        optimizer_g.step()
        discriminator.requires_grad_(True)
        average.update_parameters(generator)
        if step % 100 == 0:
            run.log(d=float(loss_d.detach()), g=float(loss_g.detach()), margin=float(margin))
    full.generator.load_state_dict(average.module.state_dict())
    full.decoder.load_state_dict(autoencoder.decoder.state_dict())
    full.shift.copy_(standardizer.shift)
    full.scale.copy_(standardizer.scale)
    return full.eval(), run.summary()


def make(generator: nn.Module, label: Tensor, seed: int) -> Tensor:
    """Images ``[n, 3, 32, 32]`` of the labels ``[n]``."""
    z = torch.randn(len(label), LATENT, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        parts = zip(z.split(200), label.split(200), strict=True)
        return torch.cat([generator(*part) for part in parts])


def measure(generator: nn.Module) -> dict[str, Any]:
    """What the judge reads in 1,200 samples, 200 a label.

    Evenness is the entropy of a factor's values over its largest possible value: 1 when all come
    equally often, as in the training data.
    """
    label = torch.arange(len(LABELS)).repeat_interleave(MEASURED // len(LABELS))
    read = judge.read_factors(make(generator, label, seed=12))
    right = (read[:, 0] == label).float()
    evenness = {
        name: round(judge.evenness(read[:, i], len(values)), 4)
        for i, (name, values) in enumerate(shapes.FACTORS.items())
        if name != "shape"
    }
    return {
        "label_accuracy": round(float(right.mean()), 4),
        "label_accuracy_by_shape": {
            name: round(float(right[label == i].mean()), 4) for i, name in enumerate(LABELS)
        },
        "evenness": evenness,
        "samples": MEASURED,
    }


def package(generator: nn.Module, summary: str) -> Package:
    """The generator with its numbers, card and samples."""
    rows = torch.arange(len(LABELS)).repeat_interleave(SHEET_COLUMNS)
    return Package(
        id="shapes-cgan",
        family="gan",
        description="Conditional GAN of colored shapes at 32x32; the label is the shape.",
        networks=[
            NetworkExport(
                name="generator",
                architecture="conditional_generator",
                module=generator,
                inputs={"z": Input((LATENT,)), "label": Input((), "integer", len(LABELS))},
                config=CONFIG,
            )
        ],
        options={"latent": {"shape": [LATENT]}, "labels": list(LABELS)},
        metrics=measure(generator),
        card=card(summary),
        sheet=make(generator, rows, seed=13),
        sheet_columns=SHEET_COLUMNS,
    )


def card(summary: str) -> Card:
    """The model card's words."""
    return Card(
        title="shapes-cgan",
        summary="A class-conditional GAN that draws one colored shape on a flat background at "
        "32x32. The label chooses the shape; color, background, size and place follow the noise.",
        data=shapes.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread: relativistic pairing loss, "
        "zero-centred penalties by random differences, an auxiliary label reader, Adam, and an "
        "average of the generator's weights. It works on the latents of the autoencoder of "
        "`shapes-ldm`, whose decoder is part of the network. The discriminator first spends "
        f"{READING_MINUTES:.0f} minutes learning to read the six factors. " + HISTORY,
        measured="Read by a factor classifier that was trained apart (98% of held-out real shapes "
        "read right), on fresh noise. `evenness` is each factor's entropy over its largest.",
        limits=(
            "One network evaluation, no likelihood: the discriminator's score is no density, and "
            "is not shipped.",
            "Only the shape can be asked for.",
            "Made images for tests and demonstrations; no photographs, no people.",
        ),
        recipe="model_store.recipes.shapes_cgan",
        pipeline_tag="unconditional-image-generation",
        dataset="atelier/captioned-shapes",
        tags=("gan", "class-conditional"),
    )


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=45)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
