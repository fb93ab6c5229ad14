"""The network whose features tell textures apart: what photographs are compared by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional


class TextureClassifier(nn.Module):
    """Image to the logits of where it was taken from, by features at four resolutions."""

    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(
        self, classes: int = 8, channels: int = 3, widths: Sequence[int] = (16, 32, 48, 64)
    ) -> None:
        """Build; every width after the first halves the resolution."""
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (before, after) in enumerate(itertools.pairwise((channels, *widths)))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for width in widths)
        self.head = nn.Linear(widths[-1], classes)

    def features(self, image: Tensor) -> list[Tensor]:
        """``[n, channels, h, w]`` in [-1, 1] to a map of features for every layer, fine first."""
        found, h = [], image
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = functional.silu(norm(layer(h)))
            found.append(h)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """``[n, channels, h, w]`` in [-1, 1] to ``[n, classes]``."""
        return self.head(self.features(image)[-1].mean(dim=(2, 3)))
