"""An autoencoder of small images in linear layers: a code without a prior."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers from the first size to the last, with an activation after each but the last."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*parts[:-1])


class PerceptronEncoder(nn.Module):
    """Image to its code."""

    outputs: ClassVar[tuple[str, ...]] = ("z",)

    mean: Tensor
    std: Tensor

    def __init__(
        self, code: int = 12, hidden: Sequence[int] = (128, 64), channels: int = 1, side: int = 8
    ) -> None:
        """Build with hidden layers of these sizes."""
        super().__init__()
        self.layers = layers((channels * side**2, *hidden, code))
        self.register_buffer("mean", torch.zeros(code))
        self.register_buffer("std", torch.ones(code))

    def forward(self, image: Tensor) -> Tensor:
        """``[n, c, side, side]`` in [-1, 1] to ``[n, code]``, standardised by ``mean`` and ``std``.

        Both are measured after training, so that a step of 1 means as much in every number.
        """
        return (self.layers(image.flatten(1)) - self.mean) / self.std


class PerceptronDecoder(nn.Module):
    """Code to image: the mirror image of `PerceptronEncoder`."""

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    mean: Tensor
    std: Tensor

    def __init__(
        self, code: int = 12, hidden: Sequence[int] = (128, 64), channels: int = 1, side: int = 8
    ) -> None:
        """Build with the encoder's arguments."""
        super().__init__()
        self.shape = (channels, side, side)
        self.layers = layers((code, *reversed(hidden), channels * side**2))
        self.register_buffer("mean", torch.zeros(code))
        self.register_buffer("std", torch.ones(code))

    def forward(self, z: Tensor) -> Tensor:
        """``[n, code]`` to an image ``[n, c, side, side]``, nominally in [-1, 1]."""
        return self.layers(z * self.std + self.mean).view(-1, *self.shape)
