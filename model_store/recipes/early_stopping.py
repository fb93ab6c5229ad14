"""Training with averaged weights and early stopping: the loop of most recipes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_store.recipes.training import (
    Best,
    Run,
    averaged,
    learning_rate,
    set_learning_rate,
)

GRADIENT_NORM = 1.0


class Settings(NamedTuple):
    """How to train.

    Attributes:
        peak_rate: learning rate after the warm-up.
        check_every: steps between validations.
        weight_decay: of AdamW.
        betas: of AdamW.
        decay: of the average of the weights.
    """

    peak_rate: float
    check_every: int
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.99


def fit(
    name: str,
    network: nn.Module,
    loss_of: Callable[[nn.Module, torch.Generator], Tensor],
    validate: Callable[[nn.Module], Tensor],
    options: argparse.Namespace,
    settings: Settings,
) -> tuple[nn.Module, str]:
    """Train by AdamW until the time is spent.

    Args:
        name: of the checkpoint.
        network: is trained in place.
        loss_of: the loss of a fresh batch that it draws from the generator, a scalar.
        validate: what early stopping goes by, a scalar, the same numbers at every call; lower is
            better. The network is in eval mode and no gradients are kept.
        options: of the recipe.
        settings: how to train.

    Returns:
        The weights that did best on validation, in eval mode, and how long it took.
    """
    average = averaged(network, settings.decay)
    best = Best(network)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings.peak_rate,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
    )
    run = Run(
        name,
        options.minutes,
        options.workspace,
        {"network": network, "average": average, "best": best, "optimizer": optimizer},
        fresh=options.fresh,
        export_only=options.export_only,
    )

    @torch.no_grad()
    def validated(candidate: nn.Module) -> float:
        return float(validate(candidate.eval()))

    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, settings.peak_rate))
        loss = loss_of(network, run.generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        average.update_parameters(network)
        if step % settings.check_every == 0:
            validation = validated(average.module)
            best.offer(average.module, validation)
            run.log(train=float(loss.detach()), validation=validation, best=float(best.loss))
    # A short run's average still holds its first steps; the last weights may be the better ones.
    for candidate in (average.module, network):
        best.offer(candidate, validated(candidate))
    return best.network.eval(), run.summary()
