"""Train the classifier of noisy digits that guides `digits_ddpm`; that recipe runs this one.

Trained on noisy images of every level (Dhariwal and Nichol, 2021, arXiv:2105.05233, section 4).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.noisy_classifier import NoisyClassifier
from model_store.recipes import digits
from model_store.recipes.early_stopping import Settings, fit

MINUTES = 3.0
BATCH = 64
PEAK_RATE = 2e-3
SHIFT_CHANCE = 0.3
CHECK_EVERY = 50
MEASURED_TIMES = (0, 250, 500)
CONFIG: dict[str, Any] = {
    "channels": 1,
    "classes": digits.CLASSES,
    "width": 32,
    "blocks": 2,
    "style": 64,
    "dropout": 0.2,
}
WORDS = (
    f"The classifier was trained apart, on noisy digits of every level, for up to {MINUTES:g} "
    "minutes, with early stopping."
)


def noised(x: Tensor, t: Tensor, signal: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[n, 1, 8, 8]`` at times ``[n]``; ``signal`` is the schedule's, ``[times]``."""
    level = signal[t].view(-1, 1, 1, 1)
    return level.sqrt() * x + (1 - level).sqrt() * torch.randn(x.shape, generator=generator)


def loss_of(
    network: nn.Module, x: Tensor, target: Tensor, signal: Tensor, generator: torch.Generator
) -> Tensor:
    """Cross-entropy at random times."""
    t = torch.randint(len(signal), (len(x),), generator=generator)
    logits = network(noised(x, t, signal, generator), t.float())
    return functional.cross_entropy(logits, target)


def train(options: argparse.Namespace, signal: Tensor) -> nn.Module:
    """Train for `MINUTES`, or export what the checkpoint holds.

    Args:
        options: of the recipe that this is a part of.
        signal: cumulative product of ``1 - beta``, ``[times]``.
    """
    images, target = digits.levels("train")
    held_out = digits.signed(torch.cat([digits.dequantized("validation", seed=s) for s in (1, 2)]))
    names = digits.levels("validation")[1].repeat(2)

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        x = digits.signed(digits.augmented(images[rows], generator, chance=SHIFT_CHANCE))
        return loss_of(network, x, target[rows], signal, generator)

    def validate(network: nn.Module) -> Tensor:
        return loss_of(network, held_out, names, signal, torch.Generator().manual_seed(9))

    network, _ = fit(
        "digits-classifier-noisy",
        NoisyClassifier(**CONFIG),
        loss,
        validate,
        argparse.Namespace(**{**vars(options), "minutes": MINUTES}),
        Settings(PEAK_RATE, CHECK_EVERY, weight_decay=5e-2),
    )
    return network


@torch.no_grad()
def measure(network: nn.Module, signal: Tensor) -> dict[str, Any]:
    """Accuracy on the test split at some of the times."""
    _, target = digits.levels("test")
    x = digits.signed(digits.dequantized("test", seed=3))
    generator = torch.Generator().manual_seed(4)
    found = {}
    for time in MEASURED_TIMES:
        t = torch.full((len(x),), time)
        read = network(noised(x, t, signal, generator), t.float()).argmax(dim=1)
        found[f"t={time}"] = round(float((read == target).float().mean()), 4)
    return {"classifier_accuracy": found}
