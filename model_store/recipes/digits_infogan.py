"""Train InfoGAN of handwritten digits: ``python -m model_store.recipes.digits_infogan``.

Chen et al., 2016, arXiv:1606.03657: a generator that is told a category and two continuous codes
beside its noise, an opponent, and a network Q on the opponent's features that reads the codes back.
What Q reads is a lower bound of the information between codes and image (eq. 5), and both players
raise it. No label is ever seen.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.perceptron_gan import CodedGenerator, CodeRecognition
from model_store.export.folding import folded
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_gans as gans
from model_store.recipes import digits
from model_store.recipes.code_agreement import agreement, correlation, ink, slant
from model_store.recipes.training import Run, arguments, averaged, learning_rate, set_learning_rate

LATENT = 24
CATEGORIES = 10
CONTINUOUS = 2
CONFIG: dict[str, Any] = {
    "latent": LATENT,
    "categories": CATEGORIES,
    "continuous": CONTINUOUS,
    "hidden": [192, 256],
}
READER: dict[str, Any] = {
    "categories": CATEGORIES,
    "continuous": CONTINUOUS,
    "trunk": [256, 192],
    "hidden": 64,
}
BATCH = 64
RATE = 5e-4
MOMENTA = (0.5, 0.99)
CATEGORY_WEIGHT = 1.0
CONTINUOUS_WEIGHT = 0.05
PENALTY = 1.0
"""Half of R1's gamma (Mescheder et al., 2018, arXiv:1801.04406, eq. 9)."""
PENALTY_EVERY = 4
SWEEP = 8


def draw(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Noise and codes as the generator is told them."""
    return {
        "z": torch.randn(count, LATENT, generator=generator),
        "category": torch.randint(CATEGORIES, (count,), generator=generator),
        "continuous": 2 * torch.rand(count, CONTINUOUS, generator=generator) - 1,
    }


def information(read: tuple[Tensor, Tensor, Tensor], told: dict[str, Tensor]) -> Tensor:
    """What Q falls short of knowing the codes: cross-entropy, and a Gaussian's in nats."""
    logits, mean, log_variance = read
    apart = (told["continuous"] - mean).square() / log_variance.exp() + log_variance
    category = functional.cross_entropy(logits, told["category"])
    return CATEGORY_WEIGHT * category + CONTINUOUS_WEIGHT * 0.5 * apart.sum(dim=1).mean()


def train(options: argparse.Namespace) -> tuple[nn.Module, nn.Module, str]:
    """Play the game; generator and Q with averaged weights, and how long it took."""
    generator, reader = CodedGenerator(**CONFIG), CodeRecognition(**READER)
    score = nn.Linear(reader.trunk.features, 1)
    average, average_reader = averaged(generator, 0.999), averaged(reader, 0.999)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=RATE, betas=MOMENTA, fused=True)
    opponents = itertools.chain(reader.parameters(), score.parameters())
    optimizer_d = torch.optim.Adam(opponents, lr=RATE, betas=MOMENTA, fused=True)
    run = Run(
        "digits-infogan",
        options.minutes,
        options.workspace,
        {
            "generator": generator,
            "reader": reader,
            "score": score,
            "average": average,
            "average_reader": average_reader,
            "optimizer_g": optimizer_g,
            "optimizer_d": optimizer_d,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        for optimizer in (optimizer_g, optimizer_d):
            set_learning_rate(optimizer, learning_rate(run.progress, RATE))
        told = draw(BATCH, run.generator)
        fake = generator(**told)
        real = gans.shown(gans.reals(BATCH, run.generator), run.generator)
        real.requires_grad_(step % PENALTY_EVERY == 0)
        score_real = score(reader.trunk(real))
        features = reader.trunk(gans.shown(fake.detach(), run.generator))
        loss_d = functional.softplus(-score_real).mean()
        loss_d = loss_d + functional.softplus(score(features)).mean()
        loss_d = loss_d + information(reader.read(features), told)
        if real.requires_grad:
            (gradient,) = torch.autograd.grad(score_real.sum(), real, create_graph=True)
            squares = gradient.flatten(1).square().sum(dim=1).mean()
            loss_d = loss_d + PENALTY * PENALTY_EVERY * squares
        optimizer_d.zero_grad(set_to_none=True)
        loss_d.backward()
        optimizer_d.step()

        features = reader.trunk(gans.shown(fake, run.generator))
        unknown = information(reader.read(features), told)
        loss_g = functional.softplus(-score(features)).mean() + unknown
        optimizer_g.zero_grad(set_to_none=True)
        loss_g.backward()
        optimizer_g.step()
        average.update_parameters(generator)
        average_reader.update_parameters(reader)
        if step % 200 == 0:
            run.log(d=float(loss_d.detach()), unknown=float(unknown.detach()))
    source = torch.Generator().manual_seed(5)
    final = gans.settled(average.module, lambda count: draw(count, source))
    return final, average_reader.module.eval(), run.summary()


@torch.no_grad()
def make(generator: nn.Module, count: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Images ``[count, 1, 8, 8]`` and the codes that they were made from."""
    told = draw(count, torch.Generator().manual_seed(seed))
    return generator(**told), told


@torch.no_grad()
def sweep(generator: nn.Module) -> Tensor:
    """Per category a row: the first code from -1 to 1, then the second, other things equal."""
    category = torch.arange(CATEGORIES).repeat_interleave(CONTINUOUS * SWEEP)
    codes = torch.zeros(CONTINUOUS, SWEEP, CONTINUOUS)
    for which in range(CONTINUOUS):
        codes[which, :, which] = torch.linspace(-1, 1, SWEEP)
    z = torch.randn(CATEGORIES, LATENT, generator=torch.Generator().manual_seed(16))
    images: Tensor = generator(
        z=z.repeat_interleave(CONTINUOUS * SWEEP, dim=0),
        category=category,
        continuous=codes.flatten(0, 1).repeat(CATEGORIES, 1),
    )
    return images


@torch.no_grad()
def measure(generator: nn.Module, reader: nn.Module) -> dict[str, Any]:
    """Samples as every digit GAN's are measured, and what the codes turned out to mean."""
    images, told = make(generator, gans.MEASURED, seed=12)
    logits, mean, _ = reader(images)
    test, target = gans.images("test"), digits.levels("test")[1]
    read_of_test = reader(test)[0].argmax(1)
    codes = told["continuous"]
    return {
        **gans.measure(images),
        "category_of_samples": agreement(told["category"], gans.read(images)),
        "category_read_in_test_digits": agreement(read_of_test, target),
        "q_reads_category": round(float((logits.argmax(1) == told["category"]).float().mean()), 4),
        "q_correlation": [correlation(mean[:, i], codes[:, i]) for i in range(CONTINUOUS)],
        "code_meaning": {
            f"continuous_{i}": {
                "with_slant": correlation(codes[:, i], slant(images)),
                "with_ink": correlation(codes[:, i], ink(images)),
            }
            for i in range(CONTINUOUS)
        },
    }


def described(metrics: dict[str, Any]) -> gans.DigitGan:
    """What the model says of itself, from its numbers."""
    found = metrics["category_of_samples"]
    return gans.DigitGan(
        id="digits-infogan",
        description="InfoGAN of 8x8 handwritten digits: a category and two continuous codes, "
        "learned without labels.",
        summary="InfoGAN of 8x8 handwritten digits. Beside its noise the generator is told a "
        "`category` of ten and two `continuous` codes, whose meaning it found without any label; "
        "`/v1/encode` reads the codes of an image back. On the sheet a row is a category; its left "
        "half goes through the first continuous code, its right half through the second, and "
        "nothing else changes.",
        training="Non-saturating loss with R1 on every fourth step, Q on the opponent's features "
        f"(category {CATEGORY_WEIGHT:g}, continuous {CONTINUOUS_WEIGHT:g}), Adam, batch {BATCH}, "
        "averages of the weights.",
        measured="`category_of_samples` compares the category asked for "
        "with the digit that the classifier reads in the sample; "
        "`category_read_in_test_digits` what Q reads in held-out digits with their labels. "
        "`accuracy` is that under the best one-to-one assignment of categories to digits (Kuhn, "
        "1955), `mutual_information_bits` of at most 3.32. `code_meaning` is the correlation of "
        "each continuous code with a stroke's slant and with the amount of ink.",
        limits=(
            (
                f"A category is no digit: {found['accuracy']:.0%} of samples show the digit that "
                "is best assigned to their category. The assignment is "
                + ", ".join(f"{c}: {d}" for c, d in found["digit_of_category"].items())
                + ".",
            ),
            (
                "One network evaluation, no likelihood. Q gives codes, not the noise: an image is "
                "not reconstructed from them.",
            ),
        ),
        tags=("infogan",),
    )


def package(generator: nn.Module, reader: nn.Module, took: str) -> Package:
    """Generator and Q with their numbers, card and samples."""
    networks = [
        NetworkExport(
            name="generator",
            architecture="coded_generator",
            module=folded(generator),
            inputs={
                "z": Input((LATENT,)),
                "category": Input((), "integer", CATEGORIES),
                "continuous": Input((CONTINUOUS,), "image"),
            },
            config={**CONFIG, "normalized": False},
        ),
        NetworkExport(
            name="recognition",
            architecture="code_recognition",
            module=reader,
            inputs={"image": Input(gans.IMAGE, "image")},
            config=READER,
        ),
    ]
    options = {
        "latent": {"shape": [LATENT]},
        "codes": {"categories": CATEGORIES, "continuous": CONTINUOUS},
    }
    metrics = measure(generator, reader)
    return gans.package(described(metrics), networks, options, metrics, sweep(generator), took)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=3)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
