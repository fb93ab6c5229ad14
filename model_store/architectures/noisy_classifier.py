"""A classifier of noisy states, by whose gradient a diffusion model is guided to a class."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import StyledBlock
from model_store.architectures.caption_transformer import TimeEmbedding


class NoisyClassifier(nn.Module):
    """Noisy image and time to logits: residual blocks that the time scales and shifts.

    It is trained on ``alpha x_0 + sigma noise`` at every time, as the denoiser is, so that its
    gradient means something where the denoiser is asked (Dhariwal and Nichol, 2021, section 4).
    """

    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(
        self,
        channels: int = 1,
        classes: int = 10,
        width: int = 64,
        blocks: int = 3,
        style: int = 128,
        times: int = 1000,
        dropout: float = 0.0,
    ) -> None:
        """Build for times in ``0..times - 1``; ``dropout`` acts on the features while training."""
        super().__init__()
        self.times = times
        self.time = nn.Sequential(TimeEmbedding(style), nn.SiLU())
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(StyledBlock(width, style) for _ in range(blocks))
        self.norm = nn.GroupNorm(8, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * 4 * 4, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``[n, channels, h, w]``, at least 4 x 4, and times ``[n]`` to ``[n, classes]``."""
        style = self.time(t / self.times)
        h = self.inlet(x)
        for block in self.blocks:
            h = block(h, style)
        features = functional.adaptive_avg_pool2d(functional.silu(self.norm(h)), 4)
        return self.head(self.dropout(features.flatten(1)))
