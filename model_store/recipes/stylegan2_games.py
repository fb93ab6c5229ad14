"""The games of the StyleGAN2 recipe: the mapping network's, then the whole generator's.

The mapping network first plays among latents, where a game costs little: it turns noise into
latents that cannot be told from those of real images. Then mapping and synthesis play together
among images, as in Karras et al., 2020, arXiv:1912.04958.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.gan import CodeDiscriminator
from model_store.architectures.stylegan2 import StyleMapping
from model_store.architectures.stylegan2_discriminator import StyleDiscriminator
from model_store.recipes import shapes
from model_store.recipes.players import Players
from model_store.recipes.shapes_cgan import Codes, discriminator_loss, game_rate
from model_store.recipes.stylegan2_drawing import (
    RESOLUTION,
    STYLE,
    Generator,
    PosteriorEncoder,
    settled,
)
from model_store.recipes.training import compiled

LATENT = 64
POOL = 20_000
LATENT_BATCH = 256
MAPPING_RATE = 0.1
"""Beside the mapping's multiplier of 0.1 this moves its weights as fast as 7e-4 in plain layers."""
IMAGE_BATCH = 32
IMAGE_RATE = 1e-3
DISCRIMINATOR_RATE = 2e-3
R1_GAMMA = 0.5
R1_EVERY = 16
MIXING = 0.5
"""Share of made images whose layers follow two latents, cut at a random layer."""
HEAD_START = 0.1
"""Share of the game in which the generator's rate rises from zero: its opponent starts blank."""


def encode_pool(encoder: PosteriorEncoder) -> Codes:
    """Gaussians over the latents of `POOL` training images."""
    means, deviations = [], []
    with torch.no_grad():
        for images, _ in shapes.pool(POOL, seed=7):
            mean, log_variance = encoder(images)
            means.append(mean)
            deviations.append((0.5 * log_variance).exp())
    return Codes(torch.cat(means), torch.cat(deviations), torch.zeros(POOL, dtype=torch.long))


def unstandardize(mapping: StyleMapping, mean: Tensor, std: Tensor) -> None:
    """Let the last layer scale and shift what it gives, so that its latents have these moments."""
    last = mapping.last
    with torch.no_grad():
        last.weight.mul_(std[:, None])
        last.bias.mul_(std).add_(mean / last.lr_multiplier)


def learn_latents(
    codes: Codes, options: argparse.Namespace, minutes: float
) -> tuple[StyleMapping, str]:
    """Train the mapping network among latents; its average, and how long it took."""
    mapping = StyleMapping(LATENT, STYLE)
    discriminator = CodeDiscriminator(1, STYLE)
    players = Players(
        "shapes-stylegan2-latents",
        mapping,
        discriminator,
        options,
        decay=0.998,
        minutes=minutes,
        names=("mapping", "discriminator"),
    )
    run = players.run
    standard = codes.standardized()
    label = torch.zeros(LATENT_BATCH, dtype=torch.long)
    for step in run.steps():
        rate = game_rate(run.progress) * min(1.0, step / 200)
        players.set_rates(rate / game_rate(0.0) * MAPPING_RATE, rate)
        rows = torch.randint(POOL, (LATENT_BATCH,), generator=run.generator)
        real = standard.draw(rows, run.generator)
        made = mapping(torch.randn(LATENT_BATCH, LATENT, generator=run.generator))
        nudge = torch.randn(2 * LATENT_BATCH, STYLE, generator=run.generator)
        loss_d, score_real = discriminator_loss(discriminator, real, made.detach(), label, nudge)
        players.opponent_learns(loss_d)

        with players.opponent_still():
            margin = score_real - discriminator(made, label)
            players.generator_learns(functional.softplus(margin).mean())
        if step % 500 == 0:
            run.log(d=float(loss_d.detach()), margin=float(margin.detach().mean()))
    played = settled(mapping, players.average)
    unstandardize(played, *codes.moments())
    return played, run.summary()


class Player(nn.Module):
    """Mapping, affine layers and synthesis as one: noise to an image."""

    def __init__(self, mapping: StyleMapping, generator: Generator) -> None:
        """Put the two together."""
        super().__init__()
        self.mapping, self.generator = mapping, generator

    def latents(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """``[n, LATENT]`` to ``[n, layers, STYLE]``, some rows mixed of two at a cut.

        Mixing regularisation: Karras et al., 2019, arXiv:1812.04948, section 3.1.
        """
        count, layers = len(z), self.generator.layers
        w = self.mapping(z)
        cut = torch.randint(1, layers, (count, 1), generator=generator)
        mixed = torch.rand((count, 1), generator=generator) < MIXING
        first = (torch.arange(layers) < cut) | ~mixed
        return torch.where(first[:, :, None], w[:, None], w.roll(1, dims=0)[:, None])


def r1(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Mean squared gradient of the scores by real images (Mescheder et al., 2018, eq. 9)."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def play(player: Player, options: argparse.Namespace, minutes: float) -> tuple[Player, str]:
    """Train mapping and synthesis among images; their average, and how long it took."""
    discriminator = StyleDiscriminator()
    players = Players(
        "shapes-stylegan2",
        player,
        discriminator,
        options,
        decay=0.995,
        minutes=minutes,
        names=("player", "discriminator"),
    )
    run = players.run
    draw = compiled(player.generator)
    noise_size = player.generator.synthesis.noise_size
    for step in run.steps():
        falling = game_rate(run.progress) / game_rate(0.0)
        players.set_rates(
            IMAGE_RATE * falling * min(1.0, run.progress / HEAD_START), DISCRIMINATOR_RATE * falling
        )
        real, _ = shapes.batch(IMAGE_BATCH, "train", run.generator, resolution=RESOLUTION)
        z = torch.randn(IMAGE_BATCH, LATENT, generator=run.generator)
        noise = torch.randn(IMAGE_BATCH, noise_size, generator=run.generator)
        made = draw(player.latents(z, run.generator), noise)
        score_made = discriminator(made.detach())
        loss_d = functional.softplus(score_made).mean()
        loss_d = loss_d + functional.softplus(-discriminator(real)).mean()
        if step % R1_EVERY == 0:
            loss_d = loss_d + R1_GAMMA / 2 * R1_EVERY * r1(discriminator, real)
        players.opponent_learns(loss_d)

        with players.opponent_still():
            players.generator_learns(functional.softplus(-discriminator(made)).mean())
        if step % 20 == 1:
            run.log(discriminator=float(loss_d.detach()), made=float(score_made.detach().mean()))
    return settled(player, players.average), run.summary()
