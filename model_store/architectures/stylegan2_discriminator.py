"""StyleGAN2's discriminator, behind overlapping patches so that depth is cheap.

Only training needs it. A score is no density.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.equalized import GAIN, EqualizedConvolution, EqualizedLinear
from model_store.architectures.stylegan2_layers import SLOPE


class RectifiedConvolution(EqualizedConvolution):
    """A convolution of equalised learning rate and a leaky rectifier."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 1
    ) -> None:
        """Build for square kernels."""
        super().__init__(channels, out_channels, kernel, gain=1.0, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, out_channels, h / stride, w / stride]``."""
        return functional.leaky_relu(super().forward(x), SLOPE) * GAIN


def with_deviation(h: Tensor, group: int) -> Tensor:
    """Append one map: how much the rows of a group differ, so that collapse shows.

    Karras et al., 2018, arXiv:1710.10196, section 3.

    Args:
        h: ``[n, channels, height, width]``.
        group: rows in a group, a divisor of n.
    """
    rows, _, height, width = h.shape
    grouped = h.view(group, rows // group, -1)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)
    maps = deviation.repeat(group).view(rows, 1, 1, 1).expand(-1, -1, height, width)
    return torch.cat([h, maps], dim=1)


class StyleDiscriminator(nn.Module):
    """Realism of an image, with the deviation of a small group as one more feature map."""

    def __init__(self, width: int = 64, group: int = 4) -> None:
        """Build for 64x64 images."""
        super().__init__()
        self.trunk = nn.Sequential(
            RectifiedConvolution(3, width // 2, 8, stride=4, padding=2),
            RectifiedConvolution(width // 2, width, 4, stride=2),
            RectifiedConvolution(width, width, 3),
            RectifiedConvolution(width, 2 * width, 4, stride=2),
        )
        self.deep = RectifiedConvolution(2 * width + 1, 2 * width, 3)
        self.hidden = EqualizedLinear(2 * width * 16, 2 * width, gain=1.0)
        self.score = EqualizedLinear(2 * width, 1, gain=1.0)
        self.group = group

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 3, 64, 64]`` in [-1, 1], n a multiple of the group, to scores ``[n]``."""
        h = self.deep(with_deviation(self.trunk(image), self.group))
        h = functional.leaky_relu(self.hidden(h.flatten(1)), SLOPE) * GAIN
        score: Tensor = self.score(h).squeeze(1)
        return score
