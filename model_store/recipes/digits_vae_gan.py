"""Train a VAE-GAN of handwritten digits: ``python -m model_store.recipes.digits_vae_gan``.

Larsen et al., 2016, arXiv:1512.09300, algorithm 1: an encoder and a decoder as in a VAE, where the
decoder is a GAN's generator too, and what is called alike is judged between the features of its
opponent. A weak term between pixels keeps the scale while those features move.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import gaussian_sample
from model_store.architectures.digit_gan import StridedCritic, StridedEncoder, StridedGenerator
from model_store.export.folding import folded
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_gans as gans
from model_store.recipes import digits
from model_store.recipes.training import Run, arguments, averaged, learning_rate, set_learning_rate
from services.sampling.bounds import kl_to_standard_normal

LATENT = 16
CONFIG: dict[str, Any] = {"latent": LATENT, "width": 28}
ENCODER: dict[str, Any] = {"latent": LATENT, "width": 24}
BATCH = 64
RATE = 5e-4
MOMENTA = (0.5, 0.99)
JUDGED_LAYER = 4
"""The opponent's layers up to this one give the features that images are compared by."""
FEATURE_WEIGHT = 2.0
PIXEL_WEIGHT = 4.0
GAME_WEIGHT = 2.0
PENALTY = 1.0
PENALTY_EVERY = 4
REAL_PAIRS = gans.SHEET_COLUMNS


def judged(critic: StridedCritic, images: Tensor) -> Tensor:
    """The features that images are compared by."""
    for layer in list(critic.trunk)[:JUDGED_LAYER]:
        images = layer(images)
    return images


def apart(critic: StridedCritic, images: Tensor, others: Tensor) -> Tensor:
    """How different images are, a scalar: squares over features and pixels, summed per image."""
    with torch.no_grad():
        wanted = judged(critic, images)
    features = (judged(critic, others) - wanted).square().flatten(1).sum(dim=1).mean()
    pixels = (others - images).square().flatten(1).sum(dim=1).mean()
    return FEATURE_WEIGHT * features + PIXEL_WEIGHT * pixels


def opponent_loss(
    critic: nn.Module, real: Tensor, made: Tensor, generator: torch.Generator, *, penalized: bool
) -> Tensor:
    """The non-saturating loss against reconstructions and samples; R1 where ``penalized``."""
    real = gans.shown(real, generator).requires_grad_(penalized)
    score_real = critic(real)
    score_made = critic(gans.shown(made, generator))
    loss = functional.softplus(-score_real).mean() + functional.softplus(score_made).mean()
    if penalized:
        (gradient,) = torch.autograd.grad(score_real.sum(), real, create_graph=True)
        loss = loss + PENALTY * PENALTY_EVERY * gradient.flatten(1).square().sum(dim=1).mean()
    return loss


def train(options: argparse.Namespace) -> tuple[nn.Module, nn.Module, str]:
    """Train all three; decoder and encoder with averaged weights, and how long it took."""
    decoder, encoder, critic = (
        StridedGenerator(**CONFIG),
        StridedEncoder(**ENCODER),
        StridedCritic(24),
    )
    average, average_encoder = averaged(decoder, 0.999), averaged(encoder, 0.999)
    makers = itertools.chain(decoder.parameters(), encoder.parameters())
    optimizer_g = torch.optim.Adam(makers, lr=RATE, betas=MOMENTA)
    optimizer_d = torch.optim.Adam(critic.parameters(), lr=RATE, betas=MOMENTA)
    run = Run(
        "digits-vae-gan",
        options.minutes,
        options.workspace,
        {
            "decoder": decoder,
            "encoder": encoder,
            "critic": critic,
            "average": average,
            "average_encoder": average_encoder,
            "optimizer_g": optimizer_g,
            "optimizer_d": optimizer_d,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        for optimizer in (optimizer_g, optimizer_d):
            set_learning_rate(optimizer, learning_rate(run.progress, RATE))
        real = gans.moved(gans.reals(BATCH, run.generator), run.generator)
        mean, log_variance = encoder(real)
        noise = torch.randn(mean.shape, generator=run.generator)
        posterior = gaussian_sample(mean, log_variance, noise)
        prior = torch.randn(BATCH, LATENT, generator=run.generator)
        made = decoder(torch.cat([posterior, prior]))
        loss_d = opponent_loss(
            critic, real, made.detach(), run.generator, penalized=step % PENALTY_EVERY == 0
        )
        optimizer_d.zero_grad(set_to_none=True)
        loss_d.backward()
        optimizer_d.step()

        critic.requires_grad_(False)
        game = functional.softplus(-critic(gans.shown(made, run.generator))).mean()
        kl = kl_to_standard_normal(mean, log_variance).mean()
        different = apart(critic, real, made[:BATCH])
        optimizer_g.zero_grad(set_to_none=True)
        (kl + different + GAME_WEIGHT * game).backward()
        optimizer_g.step()
        critic.requires_grad_(True)
        average.update_parameters(decoder)
        average_encoder.update_parameters(encoder)
        if step % 200 == 0:
            run.log(kl=float(kl.detach()), apart=float(different.detach()), g=float(game.detach()))
    source = torch.Generator().manual_seed(5)
    final_encoder = average_encoder.module.eval()

    @torch.no_grad()
    def latents(count: int) -> dict[str, Tensor]:
        mean, log_variance = final_encoder(gans.reals(count // 2, source))
        half = gaussian_sample(mean, log_variance, torch.randn(mean.shape, generator=source))
        return {"z": torch.cat([half, torch.randn(count - len(half), LATENT, generator=source)])}

    return gans.settled(average.module, latents), final_encoder, run.summary()


@torch.no_grad()
def make(decoder: nn.Module, count: int, seed: int) -> Tensor:
    """Images ``[count, 1, 8, 8]`` of draws from the prior."""
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    images: Tensor = decoder(z)
    return images


@torch.no_grad()
def reconstructed(decoder: nn.Module, encoder: nn.Module, images: Tensor) -> Tensor:
    """Images through the posterior's mean and back."""
    found: Tensor = decoder(encoder(images)[0])
    return found


def measure(decoder: nn.Module, encoder: nn.Module) -> dict[str, Any]:
    """Samples as every digit GAN's are measured, and how held-out digits are reconstructed."""
    test, target = gans.images("test"), digits.levels("test")[1]
    again = reconstructed(decoder, encoder, test)
    error = (again - test).square().flatten(1).mean(dim=1)
    psnr = 10 * torch.log10(4 / error)
    right = gans.read(again) == target
    return {
        **gans.measure(make(decoder, gans.MEASURED, seed=12)),
        "reconstruction_psnr": round(float(psnr.mean()), 2),
        "reconstructions_read_as_their_digit": round(float(right.float().mean()), 4),
    }


def sheet(decoder: nn.Module, encoder: nn.Module) -> Tensor:
    """Two rows of held-out digits, each over its reconstruction, then three of samples."""
    test = gans.images("test")[: 2 * REAL_PAIRS]
    again = reconstructed(decoder, encoder, test)
    rows = [
        part
        for pair in zip(test.split(REAL_PAIRS), again.split(REAL_PAIRS), strict=True)
        for part in pair
    ]
    return torch.cat([*rows, make(decoder, 3 * REAL_PAIRS, seed=13)])


GAN = gans.DigitGan(
    id="digits-vae-gan",
    description="VAE-GAN of 8x8 handwritten digits: an encoder, and a decoder trained as a "
    "GAN's generator.",
    summary="A VAE-GAN of 8x8 handwritten digits: a VAE's encoder, and a decoder that is held "
    "to a GAN's opponent as well, which keeps its strokes sharp. Generate, reconstruct, "
    "interpolate between images, encode. On the sheet the first four rows are held-out "
    "digits, each row over its reconstructions; the rest are samples.",
    training="KL to the prior, squares between the opponent's early features (weight "
    f"{FEATURE_WEIGHT:g}) and between pixels ({PIXEL_WEIGHT:g}), the non-saturating loss on "
    f"samples and reconstructions ({GAME_WEIGHT:g}), R1 on every fourth step; Adam, batch "
    f"{BATCH}, averages of the weights.",
    measured="`reconstruction_psnr` (dB) is of held-out digits through the posterior's mean; "
    "`reconstructions_read_as_their_digit` is the share that the classifier reads as their label.",
    limits=(
        (
            "No likelihood: the decoder was trained by an opponent, not as the mean of a "
            "distribution of pixels, so a bound would be of a density that nobody fitted.",
        ),
        (f"Reconstructions are plausible before they are exact: {LATENT} numbers an image.",),
    ),
    tags=("vae-gan",),
)


def package(decoder: nn.Module, encoder: nn.Module, took: str) -> Package:
    """Both networks with their numbers, card and samples."""
    networks = [
        NetworkExport(
            name="generator",
            architecture="strided_generator",
            module=folded(decoder),
            inputs={"z": Input((LATENT,))},
            config={**CONFIG, "normalized": False},
        ),
        NetworkExport(
            name="encoder",
            architecture="strided_encoder",
            module=encoder,
            inputs={"image": Input(gans.IMAGE, "image")},
            config=ENCODER,
        ),
    ]
    options = {"latent": {"shape": [LATENT]}}
    metrics = measure(decoder, encoder)
    return gans.package(GAN, networks, options, metrics, sheet(decoder, encoder), took)


def main() -> None:
    """Train, measure, export and package the model."""
    options = arguments(__doc__ or "", minutes=5)
    publish(package(*train(options)))


if __name__ == "__main__":
    main()
