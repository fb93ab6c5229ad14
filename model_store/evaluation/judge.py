"""The factor classifier that reads what a made shape shows.

It is trained apart from every generator (`model_store.recipes.shapes_classifier`), so a number on a
card can be measured again. Policies can use it too: its weights are those of the built-in model
`shapes-classifier`.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model_store.architectures import build
from model_store.store import CLASSIFIERS

NAME = "shapes-classifier"
WEIGHTS = CLASSIFIERS / NAME / "classifier.safetensors"
METRICS = Path(__file__).parent / "shapes_classifier.json"
FACTORS = ("shape", "color", "background", "size", "vertical", "horizontal")
BATCH = 256
CONFIG: dict[str, Any] = {
    "values": [6, 8, 4, 3, 3, 3],
    "width": 64,
    "blocks": 3,
    "hidden": 192,
    "dropout": 0.1,
}


@cache
def judge() -> nn.Module:
    """The classifier, in eval mode."""
    module = build("factor_classifier", CONFIG)
    module.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return module.eval()


def read_factors(images: Tensor) -> Tensor:
    """The most likely value of each factor: ``[n, 3, 32, 32]`` in [-1, 1] to int64 ``[n, 6]``."""
    rows = []
    with torch.no_grad():
        for part in images.split(BATCH):
            rows.append(torch.stack([logits.argmax(1) for logits in judge()(part)], dim=1))
    return torch.cat(rows)


def confidence(images: Tensor) -> dict[str, float]:
    """Mean probability of the value that is read, by factor: 1 when nothing is ambiguous."""
    with torch.no_grad():
        logits = judge()(images)
    return {
        name: round(float(row.softmax(1).amax(1).mean()), 4)
        for name, row in zip(FACTORS, logits, strict=True)
    }


def evenness(read: Tensor, values: int) -> float:
    """Entropy of the read values ``[n]`` over ``log(values)``, in [0, 1]."""
    share = read.bincount(minlength=values) / len(read)
    return float(torch.special.entr(share).sum()) / math.log(values)


def factors_evenness(read: Tensor) -> dict[str, float]:
    """The evenness of each factor of those read, ``[n, 6]``: 1 when all values come equally."""
    return {
        name: round(evenness(read[:, i], values), 4)
        for i, (name, values) in enumerate(zip(FACTORS, CONFIG["values"], strict=True))
    }


def factor_accuracy(images: Tensor, factors: Tensor) -> dict[str, float]:
    """Share of images in which each factor is read as ``factors`` ``[n, 6]`` says, in [0, 1]."""
    right = (read_factors(images) == factors).float().mean(dim=0)
    return {name: round(float(right[i]), 4) for i, name in enumerate(FACTORS)}


def all_factors_accuracy(images: Tensor, factors: Tensor) -> float:
    """Share of images in which all six factors are read as ``factors`` says, in [0, 1]."""
    return round(float((read_factors(images) == factors).all(dim=1).float().mean()), 4)
