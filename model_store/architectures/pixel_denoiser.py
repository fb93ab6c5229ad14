"""A small convolutional denoiser of images at their own resolution, for images as small as 8x8."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import StyledBlock
from model_store.architectures.caption_transformer import TimeEmbedding


class PixelDenoiser(nn.Module):
    """Noisy image and time to the noise in it: residual blocks that the time scales and shifts."""

    outputs: ClassVar[tuple[str, ...]] = ("epsilon",)

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        blocks: int = 4,
        style: int = 128,
        times: int = 1000,
        dropout: float = 0.0,
    ) -> None:
        """Build for times in ``0..times - 1``; ``dropout`` acts between blocks while training."""
        super().__init__()
        self.times = times
        self.time = nn.Sequential(TimeEmbedding(style), nn.SiLU())
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(StyledBlock(width, style) for _ in range(blocks))
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.GroupNorm(8, width)
        self.outlet = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.outlet.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``[n, channels, h, w]`` and times ``[n]`` to the noise, of the shape of ``x``."""
        style = self.time(t / self.times)
        h = self.inlet(x)
        for block in self.blocks:
            h = self.dropout(block(h, style))
        return self.outlet(functional.silu(self.norm(h)))
