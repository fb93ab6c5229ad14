"""Train a WGAN-GP of handwritten digits: ``python -m model_store.recipes.digits_wgan_gp``.

Gulrajani et al., 2017, arXiv:1704.00028, algorithm 1: a critic with layer normalisation whose
gradient is held near norm 1 between real and made images, several critic steps for each of the
generator's. The critic is exported too.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from model_store.architectures.perceptron_gan import PerceptronCritic, PerceptronGenerator
from model_store.evaluation.reference import quantiles
from model_store.export.folding import folded
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_gans as gans
from model_store.recipes import digits
from model_store.recipes.training import Run, arguments, averaged, learning_rate, set_learning_rate

LATENT = 32
CONFIG: dict[str, Any] = {"latent": LATENT, "hidden": [192, 256]}
CRITIC: dict[str, Any] = {"hidden": [256, 192]}
BATCH = 64
CRITIC_STEPS = 3
PENALTY = 10.0
RATE = 1e-3
MOMENTA = (0.0, 0.9)


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """``E (|grad critic| - 1)^2`` at random places between pairs of images (eq. 3)."""
    place = torch.rand(len(real), 1, 1, 1, generator=generator)
    between = (place * real + (1 - place) * fake).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def train(options: argparse.Namespace) -> tuple[nn.Module, nn.Module, str]:
    """Play the game; generator and critic with averaged weights, and how long it took."""
    generator, critic = PerceptronGenerator(**CONFIG), PerceptronCritic(**CRITIC)
    average, average_critic = averaged(generator, 0.999), averaged(critic, 0.999)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=RATE, betas=MOMENTA, fused=True)
    optimizer_d = torch.optim.Adam(critic.parameters(), lr=RATE, betas=MOMENTA, fused=True)
    run = Run(
        "digits-wgan-gp",
        options.minutes,
        options.workspace,
        {
            "generator": generator,
            "critic": critic,
            "average": average,
            "average_critic": average_critic,
            "optimizer_g": optimizer_g,
            "optimizer_d": optimizer_d,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        for optimizer in (optimizer_g, optimizer_d):
            set_learning_rate(optimizer, learning_rate(run.progress, RATE))
        for _ in range(CRITIC_STEPS):
            with torch.no_grad():
                made = generator(torch.randn(BATCH, LATENT, generator=run.generator))
            fake = gans.shown(made, run.generator)
            real = gans.shown(gans.reals(BATCH, run.generator), run.generator)
            distance = critic(real).mean() - critic(fake).mean()
            penalty = gradient_penalty(critic, real, fake, run.generator)
            optimizer_d.zero_grad(set_to_none=True)
            (PENALTY * penalty - distance).backward()
            optimizer_d.step()
        average_critic.update_parameters(critic)

        critic.requires_grad_(False)
        fake = generator(torch.randn(BATCH, LATENT, generator=run.generator))
        loss_g = -critic(gans.shown(fake, run.generator)).mean()
        optimizer_g.zero_grad(set_to_none=True)
        loss_g.backward()
        optimizer_g.step()
        critic.requires_grad_(True)
        average.update_parameters(generator)
        if step % 100 == 0:
            run.log(distance=float(distance.detach()), penalty=float(penalty.detach()))
    source = torch.Generator().manual_seed(5)
    final = gans.settled(
        average.module, lambda count: {"z": torch.randn(count, LATENT, generator=source)}
    )
    return final, average_critic.module.eval(), run.summary()


@torch.no_grad()
def make(generator: nn.Module, count: int, seed: int) -> Tensor:
    """Images ``[count, 1, 8, 8]``."""
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    images: Tensor = generator(z)
    return images


@torch.no_grad()
def realness(critic: nn.Module, samples: Tensor) -> dict[str, Any]:
    """Mean scores of held-out digits, samples, and images that are no digits."""
    noise = torch.Generator().manual_seed(14)
    test = gans.images("test")
    asked = {
        "test_digits": test,
        "samples": samples,
        "negatives_of_test_digits": -test,
        "uniform_noise": 2 * torch.rand(len(test), *gans.IMAGE, generator=noise) - 1,
    }
    return {name: round(float(critic(images).mean()), 3) for name, images in asked.items()}


@torch.no_grad()
def reference(critic: nn.Module) -> list[float]:
    """Quantiles of the test split's scores, as 8-bit images are scored when they are uploaded."""
    source = torch.Generator().manual_seed(15)
    pixels = digits.to_8_bit(digits.levels("test")[0], source)
    return quantiles(critic(pixels / 255 * 2 - 1))


GAN = gans.DigitGan(
    id="digits-wgan-gp",
    description="WGAN-GP of 8x8 handwritten digits, with its critic: `realness` of any image.",
    summary="A Wasserstein GAN with gradient penalty of 8x8 handwritten digits. Its critic is "
    "served beside its generator: every image that it makes, and every image given to "
    "`/v1/encode`, comes with `realness`, the critic's score.",
    training=f"{CRITIC_STEPS} critic steps for each of the generator's, gradient penalty "
    f"{PENALTY:g}, layer normalisation in the critic, Adam, batch {BATCH}, averages of both "
    "players' weights.",
    measured="`realness` holds mean scores: of held-out digits, of samples, and of images that "
    "are no digits.",
    limits=(
        (
            "`realness` is no density and no likelihood: its zero and its unit mean nothing, it "
            "compares images of this one critic, and it was trained on digits and samples alone. "
            "`realness_percentile` says where a score lies among those of held-out digits.",
        ),
        ("Which digit comes cannot be asked for.",),
    ),
    tags=("wgan-gp",),
)


def package(generator: nn.Module, critic: nn.Module, took: str) -> Package:
    """Both players with their numbers, card and samples."""
    networks = [
        NetworkExport(
            name="generator",
            architecture="perceptron_generator",
            module=folded(generator),
            inputs={"z": Input((LATENT,))},
            config={**CONFIG, "normalized": False},
        ),
        NetworkExport(
            name="critic",
            architecture="perceptron_critic",
            module=critic,
            inputs={"image": Input(gans.IMAGE, "image")},
            config=CRITIC,
        ),
    ]
    samples = make(generator, gans.MEASURED, seed=12)
    metrics = {**gans.measure(samples), "realness": realness(critic, samples)}
    options = {"latent": {"shape": [LATENT]}, "reference_realness": reference(critic)}
    sheet = make(generator, 5 * gans.SHEET_COLUMNS, seed=13)
    return gans.package(GAN, networks, options, metrics, sheet, took)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=3)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
