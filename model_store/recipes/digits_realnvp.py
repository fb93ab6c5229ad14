"""Train the flow of handwritten digits: ``python -m model_store.recipes.digits_realnvp``."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from model_store.architectures.realnvp import RealNVP
from model_store.evaluation.likelihood import bits_per_dim, flow_log_likelihood
from model_store.recipes import digits
from model_store.recipes.training import (
    Run,
    arguments,
    averaged,
    learning_rate,
    set_learning_rate,
)

BATCH = 128
PEAK_RATE = 2e-3
WEIGHT_DECAY = 0.1
SHIFT_CHANCE = 0.1
CHECK_EVERY = 50


class Best(torch.nn.Module):
    """The weights that did best on validation, kept in the checkpoint: early stopping."""

    bits: Tensor

    def __init__(self, network: RealNVP) -> None:
        """Start from the untrained network."""
        super().__init__()
        self.network = RealNVP()
        self.network.load_state_dict(network.state_dict())
        self.register_buffer("bits", torch.tensor(float("inf")))

    def offer(self, candidate: torch.nn.Module, bits: float) -> None:
        """Keep ``candidate`` when it beats what is kept."""
        if bits < float(self.bits):
            self.network.load_state_dict(candidate.state_dict())
            self.bits.fill_(bits)


def standardize(network: RealNVP) -> None:
    """Set the first affine layer so that every training pixel's logit has mean 0 and variance 1."""
    with torch.no_grad():
        logit, _ = network.squash(digits.dequantized("train", seed=5))
        network.shift.copy_(logit.mean(dim=0, keepdim=True))
        network.log_scale.copy_(logit.std(dim=0, keepdim=True).log())


def train(options: argparse.Namespace) -> RealNVP:
    """Train until the time is spent; the averaged weights that did best on validation."""
    network = RealNVP()
    standardize(network)
    average = averaged(network, 0.995)
    best = Best(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)
    )
    run = Run(
        "digits-realnvp",
        options.minutes,
        options.workspace,
        {"network": network, "average": average, "best": best, "optimizer": optimizer},
        fresh=options.fresh,
        export_only=options.export_only,
    )
    images, _ = digits.levels("train")
    held_out = torch.cat([digits.dequantized("validation", seed=s) for s in (6, 7, 8)])
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, PEAK_RATE))
        rows = torch.randint(len(images), (BATCH,), generator=run.generator)
        moved = digits.shift(images[rows], run.generator, chance=SHIFT_CHANCE)
        x = digits.dequantize(digits.to_8_bit(moved, run.generator), run.generator)
        loss = bits_per_dim(flow_log_likelihood(network, x)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        if step % CHECK_EVERY == 0:
            average.eval()
            with torch.no_grad():
                bits = float(bits_per_dim(flow_log_likelihood(average.module, held_out)).mean())
            best.offer(average.module, bits)
            run.log(train=float(loss.detach()), validation=bits, best=float(best.bits))
    return best.network.eval()


def main() -> None:
    """Train the model."""
    train(arguments(__doc__ or "", minutes=6))


if __name__ == "__main__":
    main()
