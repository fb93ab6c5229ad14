"""Train the conditional GAN: ``python -m model_store.recipes.shapes_cgan``.

In two parts. An encoder and a drawing learn to carry an image through a short code (Kingma and
Welling, 2013, arXiv:1312.6114); then the game is played among codes, where a discriminator cannot
be fooled by what no eye sees: a generator turns noise and a label into codes that cannot be told
from those of real images (after Makhzani et al., 2016, arXiv:1511.05644, with the roles turned
round). Its losses are relativistic pairing with zero-centred penalties on real and made codes
(Huang et al., 2024, arXiv:2501.05441), the penalties by random differences (Lin et al., 2025,
arXiv:2501.08316, section 3.3), so that no second derivative is needed. The label is the shape.
"""

from __future__ import annotations

import argparse
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import gaussian_sample
from model_store.architectures.gan import (
    CodeDiscriminator,
    CodeEncoder,
    ConditionalGenerator,
)
from model_store.evaluation import judge
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import shapes
from model_store.recipes.players import Players
from model_store.recipes.training import (
    Run,
    arguments,
    compiled,
    learning_rate,
    set_learning_rate,
)
from services.sampling.bounds import kl_to_standard_normal

LATENT = 64
CODE = 16
POOL = 40_000
DRAWING_BATCH = 64
DRAWING_MINUTES = 20.0
DRAWING_RATE = 2e-3
PIXEL_NOISE = 0.1
LOSS_SCALE = 0.01
GAME_BATCH = 256
GAME_RATE = 7e-4
STEADY_SHARE = 0.5
"""Share of the game at the full learning rate; a cosine to zero follows."""
PENALTY_NOISE = 0.02
PENALTY_WEIGHT = 25.0
"""With `PENALTY_NOISE` this equals an R1 gamma of 0.02: gamma / 2 = weight * noise ** 2."""
LABELS = shapes.FACTORS["shape"]
CONFIG = {
    "labels": len(LABELS),
    "latent": LATENT,
    "code": CODE,
    "deep": 256,
    "style": 128,
    "width": 48,
    "layers": 3,
    "fine": 16,
}
MEASURED = 1200
SHEET_COLUMNS = 12


class Codes(NamedTuple):
    """Gaussians over the codes of training images: ``[n, code]`` each, and labels ``[n]``."""

    mean: Tensor
    std: Tensor
    label: Tensor

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """One code of each of the images ``rows``."""
        mean = self.mean[rows]
        return mean + self.std[rows] * torch.randn(mean.shape, generator=generator)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[code]`` of a code of any image."""
        mean = self.mean.mean(dim=0)
        variance = self.mean.var(dim=0) + self.std.square().mean(dim=0)
        return mean, variance.sqrt()

    def standardized(self) -> Codes:
        """The same codes, shifted and scaled to zero mean and unit variance."""
        mean, std = self.moments()
        return Codes((self.mean - mean) / std, self.std / std, self.label)


def pool(count: int) -> tuple[Tensor, Tensor]:
    """``count`` training images, kept in half precision, and their labels ``[count]``."""
    parts = [(images.half(), factors[:, 0]) for images, factors in shapes.pool(count, seed=0)]
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def drawing_loss(drawn: Tensor, image: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:
    """Minus the evidence lower bound in nats, up to a constant; pixels are Gaussian.

    Args:
        drawn: what the drawing made of the encoder's draw, ``[n, 3, 32, 32]``.
        image: what the encoder saw.
        seen: the encoder's mean and log variance, each ``[n, code]``.
    """
    error = (drawn - image).square().flatten(1).sum(dim=1) / (2 * PIXEL_NOISE**2)
    return (error + kl_to_standard_normal(*seen)).mean()


def learn_to_draw(
    drawing: nn.Module,
    encoder: nn.Module,
    data: tuple[Tensor, Tensor],
    options: argparse.Namespace,
) -> str:
    """Train both until the time is spent; how long it took."""
    images, labels = data
    parameters = [*drawing.parameters(), *encoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=DRAWING_RATE)
    run = Run(
        "shapes-cgan-drawing",
        DRAWING_MINUTES,
        options.workspace,
        {"drawing": drawing, "encoder": encoder, "optimizer": optimizer},
        fresh=options.fresh,
        export_only=options.export_only,
    )
    forward = compiled(drawing)
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, DRAWING_RATE))
        rows = torch.randint(len(images), (DRAWING_BATCH,), generator=run.generator)
        image, label = images[rows].float(), labels[rows]
        mean, log_variance = encoder(image, label)
        noise = torch.randn(DRAWING_BATCH, CODE, generator=run.generator)
        drawn = forward(gaussian_sample(mean, log_variance, noise), label)
        loss = LOSS_SCALE * drawing_loss(drawn, image, (mean, log_variance))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        if step % 50 == 0:
            run.log(loss=float(loss.detach()))
    return run.summary()


def encode(encoder: nn.Module, data: tuple[Tensor, Tensor]) -> Codes:
    """The codes of all images of the pool."""
    images, labels = data
    with torch.no_grad():
        seen = [
            encoder(image.float(), label)
            for image, label in zip(images.split(500), labels.split(500), strict=True)
        ]
    mean, log_variance = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return Codes(mean, (0.5 * log_variance).exp(), labels)


def discriminator_loss(
    discriminator: nn.Module, real: Tensor, fake: Tensor, label: Tensor, nudge: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairing loss plus penalties, and the scores ``[n]`` of the real codes.

    ``nudge`` is noise ``[2n, code]``, by whose effect the gradients are penalised.
    """
    count = len(real)
    still = torch.cat([real, fake])
    scores = discriminator(torch.cat([still, still + PENALTY_NOISE * nudge]), label.repeat(4))
    score_real, score_fake = scores[:count], scores[count : 2 * count]
    penalty = 2 * (scores[2 * count :] - scores[: 2 * count]).square().mean()
    pairing = functional.softplus(score_fake - score_real).mean()
    return pairing + PENALTY_WEIGHT * penalty, score_real.detach()


def game_rate(progress: float) -> float:
    """The learning rate of both players at a share of the game in [0, 1]."""
    late = max(0.0, progress - STEADY_SHARE) / (1 - STEADY_SHARE)
    return GAME_RATE * 0.5 * (1 + math.cos(math.pi * late))


def play(generator: nn.Module, codes: Codes, options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Train until the time is spent; the averaged code generator, and how long it took.

    ``codes`` are standardised.
    """
    discriminator = CodeDiscriminator(len(LABELS), CODE)
    players = Players("shapes-cgan", generator, discriminator, options, decay=0.998)
    run = players.run
    for step in run.steps():
        rate = game_rate(run.progress) * min(1.0, step / 200)
        players.set_rates(rate, rate)
        rows = torch.randint(len(codes.label), (GAME_BATCH,), generator=run.generator)
        label = codes.label[rows]
        real = codes.draw(rows, run.generator)
        fake = generator(torch.randn(GAME_BATCH, LATENT, generator=run.generator), label)
        nudge = torch.randn(2 * GAME_BATCH, CODE, generator=run.generator)
        loss_d, score_real = discriminator_loss(discriminator, real, fake.detach(), label, nudge)
        players.opponent_learns(loss_d)

        with players.opponent_still():
            margin = score_real - discriminator(fake, label)
            players.generator_learns(functional.softplus(margin).mean())
        if step % 500 == 0:
            run.log(d=float(loss_d.detach()), margin=float(margin.detach().mean()))
    return players.average.module, run.summary()


def train(options: argparse.Namespace) -> tuple[ConditionalGenerator, str]:
    """Train both parts; the whole generator in eval mode, and how long they took."""
    full = ConditionalGenerator(**CONFIG)
    encoder = CodeEncoder(len(LABELS), CODE)
    data = pool(POOL)
    drawn = learn_to_draw(full.drawing, encoder, data, options)
    codes = encode(encoder, data)
    for buffer, moment in zip((full.mean, full.std), codes.moments(), strict=True):
        buffer.copy_(moment)
    played, lasted = play(full.generator, codes.standardized(), options)
    full.generator.load_state_dict(played.state_dict())
    return full.eval(), f"{drawn} for the drawing, {lasted} for the game"


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
    evenness = judge.factors_evenness(read)
    del evenness["shape"]  # it is what is asked for
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
        training="An encoder and a drawing first learn to carry images through codes of "
        f"{CODE} numbers, beside their label (batch {DRAWING_BATCH}). The drawing computes each "
        "pixel from its place in a frame that it moves, turns and scales itself. Then a generator "
        "and a discriminator of small perceptrons play for the distribution of the codes (batch "
        f"{GAME_BATCH}): relativistic pairing loss, zero-centred penalties by random differences, "
        f"Adam, and an average of the generator's weights. {summary}, on one busy CPU thread.",
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
    options = arguments(__doc__ or "", minutes=14)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
