"""The game of an image-to-image generator against a discriminator of patches."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.recipes.players import Players
from model_store.recipes.training import learning_rate

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Source images and what is to become of them, a fresh batch of each."""
Seen = Callable[[Tensor, Tensor], Tensor]
"""What the discriminator is shown of a source and an image."""
Content = Callable[[Tensor, Tensor], Tensor]
"""How far made images are from real ones, a scalar: the part of the loss without a game."""


class Game(NamedTuple):
    """How to play.

    Attributes:
        generator_rate: learning rate of the generator after the warm-up.
        discriminator_rate: of the discriminator.
        adversarial: weight of the game beside the content.
        decay: of the average of the generator's weights.
        log_every: steps between two entries of the history.
    """

    generator_rate: float
    discriminator_rate: float
    adversarial: float
    decay: float = 0.995
    log_every: int = 50


def play(
    name: str,
    generator: nn.Module,
    discriminator: nn.Module,
    draw: Draw,
    seen: Seen,
    content: Content,
    options: argparse.Namespace,
    game: Game,
) -> tuple[nn.Module, str]:
    """Train both by turns until the time is spent.

    The discriminator learns to score a real image above the average made one, and the generator to
    turn that round (Jolicoeur-Martineau, 2018, arXiv:1807.00734, section 4.2).

    Args:
        name: of the checkpoint.
        generator: is trained in place.
        discriminator: likewise.
        draw: the data.
        seen: what of it the discriminator is shown.
        content: the rest of the generator's loss.
        options: of the recipe.
        game: how to play.

    Returns:
        The generator of averaged weights in eval mode, and how long it took.
    """
    players = Players(name, generator, discriminator, options, decay=game.decay, betas=(0.5, 0.99))
    run = players.run
    for step in run.steps():
        players.set_rates(
            learning_rate(run.progress, game.generator_rate),
            learning_rate(run.progress, game.discriminator_rate),
        )
        source, real = draw(run.generator)
        made = generator(source)
        score_real, score_made = discriminator(
            torch.cat([seen(source, real), seen(source, made.detach())])
        ).chunk(2)
        loss_d = pairing(score_real, score_made)
        players.opponent_learns(loss_d)

        with players.opponent_still():
            apart = content(made, real)
            fooled = pairing(discriminator(seen(source, made)), score_real.detach())
            players.generator_learns(apart + game.adversarial * fooled)
        if step % game.log_every == 0:
            run.log(content=float(apart.detach()), discriminator=float(loss_d.detach()))
    return players.average.module.eval(), run.summary()


def pairing(higher: Tensor, lower: Tensor) -> Tensor:
    """Small where scores ``higher`` lie above the mean of ``lower``, and the other way round."""
    above = functional.softplus(lower.mean() - higher).mean()
    below = functional.softplus(lower - higher.mean()).mean()
    return (above + below) / 2
