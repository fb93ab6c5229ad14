"""Train the judge of the shape models: ``python -m model_store.recipes.shapes_classifier``."""

from __future__ import annotations

import argparse
import json

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from model_store.architectures.classifier import FactorClassifier
from model_store.evaluation import judge
from model_store.export.network import half_precision
from model_store.recipes import shapes
from model_store.recipes.shapes_classifier_export import export_judge
from model_store.recipes.training import (
    Run,
    arguments,
    averaged,
    learning_rate,
    set_learning_rate,
)

BATCH = 128
NOISE = 0.06
"""Largest standard deviation of the pixel noise trained with, so that a generator's faint texture
does not read as another shape."""


def held_out_accuracy(classifier: nn.Module) -> dict[str, float]:
    """Share of validation images whose factor is read right, by factor name, in [0, 1]."""
    images, factors = shapes.batch(1024, "validation", torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = classifier(images)
    return {
        name: float((row.argmax(1) == factors[:, i]).float().mean())
        for i, (name, row) in enumerate(zip(shapes.FACTORS, logits, strict=True))
    }


def train(options: argparse.Namespace) -> nn.Module:
    """Train until the time is spent; the averaged classifier, in eval mode."""
    network = FactorClassifier(**judge.CONFIG)
    average = averaged(network, 0.995)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    run = Run(
        "shapes-classifier",
        options.minutes,
        options.workspace,
        {"network": network, "average": average, "optimizer": optimizer},
        fresh=options.fresh,
        export_only=options.export_only,
    )
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, 2e-3))
        images, factors = shapes.batch(BATCH, "train", run.generator)
        spread = NOISE * torch.rand(BATCH, 1, 1, 1, generator=run.generator)
        images = images + spread * torch.randn(images.shape, generator=run.generator)
        losses = [
            functional.cross_entropy(logits, factors[:, i], label_smoothing=0.02)
            for i, logits in enumerate(network(images))
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        if step % 100 == 0:
            average.eval()
            run.log(loss=float(loss.detach()), **held_out_accuracy(average))
    average.eval()
    return average.module


def main() -> None:
    """Train the classifier, write down how well it reads, and export it for policies."""
    classifier = train(arguments(__doc__ or "", minutes=8))
    save_file(half_precision(classifier), judge.WEIGHTS)
    judge.WEIGHTS.chmod(0o644)
    judge.judge.cache_clear()
    images, factors = shapes.batch(4096, "test", torch.Generator().manual_seed(11))
    metrics = {"test_factor_accuracy": judge.factor_accuracy(images, factors)}
    judge.METRICS.write_text(json.dumps(metrics, indent=1) + "\n")
    export_judge(judge.WEIGHTS.parent)


if __name__ == "__main__":
    main()
