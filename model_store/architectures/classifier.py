"""The factor classifier: the independent judge of what a generated shape shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import PatchEncoder


class FactorClassifier(nn.Module):
    """Image to the logits of six factors, one linear head each on a shared trunk at 8x8."""

    outputs: ClassVar[tuple[str, ...]] = (
        "shape",
        "color",
        "background",
        "size",
        "vertical",
        "horizontal",
    )

    def __init__(
        self,
        values: Sequence[int] = (6, 8, 4, 3, 3, 3),
        width: int = 64,
        blocks: int = 3,
        hidden: int = 192,
        dropout: float = 0.1,
    ) -> None:
        """Build for ``values[i]`` values of factor ``i``."""
        super().__init__()
        self.trunk = PatchEncoder(3, width, blocks)
        self.norm = nn.GroupNorm(8, width)
        self.squeeze = nn.Conv2d(width, 24, 1)
        self.hidden = nn.Linear(24 * 64, hidden)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(hidden, count) for count in values)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``[n, 3, 32, 32]`` in [-1, 1] to one ``[n, values]`` per factor."""
        features = functional.silu(self.squeeze(functional.silu(self.norm(self.trunk(image)))))
        hidden = self.dropout(functional.silu(self.hidden(features.flatten(1))))
        return tuple(head(hidden) for head in self.heads)
