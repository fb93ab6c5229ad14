"""The classifier that reads what a made digit shows: a perceptron with one hidden layer.

It is fitted apart from every generator (`model_store.recipes.digits_classifier`) and kept beside
this module, so a number on a card can be measured again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS = Path(__file__).parent / "digits_classifier.safetensors"
LEVELS = 17
"""Grey levels of scikit-learn's digits, which a level of 8 bits is brought back to."""
SIDE = 8


class Reading(NamedTuple):
    """What the classifier makes of images: hidden units ``[n, 64]`` and logits ``[n, 10]``."""

    hidden: Tensor
    logits: Tensor


@cache
def weights() -> dict[str, Tensor]:
    """The classifier's weights, float32."""
    return {name: value.float() for name, value in load_file(WEIGHTS).items()}


def in_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as rows of 64 shares of the brightest of 17 levels, in [0, 1]."""
    found = (images.float() + 1) * (LEVELS / 2) - 0.5
    return (found / (LEVELS - 1)).clamp(0, 1).flatten(1)


def read(images: Tensor) -> Reading:
    """Read images ``[n, 1, 8, 8]`` in [-1, 1]."""
    known = weights()
    rows = in_levels(images)
    hidden = torch.relu(rows @ known["hidden.weight"].T + known["hidden.bias"])
    return Reading(hidden, hidden @ known["output.weight"].T + known["output.bias"])
