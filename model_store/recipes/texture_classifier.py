"""Train the judge of photographs: ``python -m model_store.recipes.texture_classifier``.

It tells from which of the photographs a patch was taken. Channels come in any order, patches turned
and mirrored, so that texture is all that can tell.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from model_store.architectures.texture import TextureClassifier
from model_store.evaluation import texture
from model_store.export.network import half_precision
from model_store.recipes import photographs
from model_store.recipes.training import Run, arguments, learning_rate, set_learning_rate

MINUTES = 1.5
BATCH, SIDE = 48, 48
PEAK_RATE = 3e-3
JUDGE_SEED = 1
"""Recipes that train by such features take another."""


def train(
    name: str, minutes: float, options: argparse.Namespace, *, seed: int
) -> TextureClassifier:
    """Train until the time is spent; the classifier in eval mode."""
    torch.manual_seed(seed)
    network = TextureClassifier(**texture.CONFIG)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    run = Run(
        name,
        minutes,
        options.workspace,
        {"network": network, "optimizer": optimizer},
        seed=seed,
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, PEAK_RATE))
        images, names = photographs.named_patches(BATCH, "train", SIDE, run.generator)
        logits = network(photographs.to_unit_range(images))
        loss = functional.cross_entropy(logits, names)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            right = (logits.argmax(1) == names).float().mean()
            run.log(loss=float(loss.detach()), right=float(right))
    last = [entry["right"] for entry in run.history[-10:]]
    print(f"{name}: {run.summary()}, {np.mean(last):.2f} of the last patches told right")
    return network.eval().requires_grad_(False)


def main() -> None:
    """Train the judge and put it beside the evaluation."""
    options = arguments(__doc__ or "", minutes=MINUTES)
    network = train("texture-classifier", options.minutes, options, seed=JUDGE_SEED)
    save_file(half_precision(network), texture.WEIGHTS)


if __name__ == "__main__":
    main()
