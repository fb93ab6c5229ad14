"""How far apart photographs are to a network that tells textures apart.

It is trained apart from every generator (`model_store.recipes.texture_classifier`) and kept beside
this module, so a number on a card can be measured again. The network is small and of this
project: its distances compare with one another, and never with published LPIPS.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from model_store.architectures.texture import TextureClassifier
from model_store.evaluation.enlargement import rounded
from model_store.evaluation.metrics.fidelity import perceptual_distance

WEIGHTS = Path(__file__).parent / "texture_classifier.safetensors"
BATCH = 32
CONFIG: dict[str, Any] = {"classes": 8, "widths": [16, 32, 48, 64]}


@cache
def texture_judge() -> TextureClassifier:
    """The classifier, in eval mode."""
    network = TextureClassifier(**CONFIG)
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval()


@torch.no_grad()
def texture_distance(images: Tensor, real: Tensor) -> Tensor:
    """Distance of every image to the real one between the judge's features, ``[n]``; 0 for equal.

    Args:
        images: ``[n, 3, h, w]`` in [-1, 1]; rounded to 8 bits.
        real: the same.
    """
    network = texture_judge()
    parts = [
        perceptual_distance(network.features(_seen(one)), network.features(_seen(other)))
        for one, other in zip(images.split(BATCH), real.split(BATCH), strict=True)
    ]
    return torch.cat(parts)


def _seen(images: Tensor) -> Tensor:
    return (rounded(images) * 2 - 1).float()
