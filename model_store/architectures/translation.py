"""Image-to-image generators of one evaluation, and who trains them against real images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from model_store.architectures.blocks import ResidualBlock

SLOPE = 0.2
"""Of leaky rectifiers."""


class PatchTranslator(nn.Module):
    """An image to another of its size: what is to be changed is added to what was given.

    Depth is spent behind a patch embedding, where every cell soon sees the whole image; one skip at
    full resolution keeps the lines of the source (the U-Net of Isola et al., 2017,
    arXiv:1611.07004, section 3.2.1, with a single level).
    """

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        blocks: int = 4,
        patch: int = 4,
        refine: int = 16,
    ) -> None:
        """Build as the identity, for sides that are multiples of ``patch``."""
        super().__init__()
        self.inlet = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.norm = nn.GroupNorm(8, width)
        self.expand = nn.Conv2d(width, refine * patch * patch, 1)
        self.shuffle = nn.PixelShuffle(patch)
        self.refine = nn.Sequential(
            nn.Conv2d(refine + channels, refine, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(refine, refine, 3, padding=1),
            nn.SiLU(),
        )
        self.outlet = nn.Conv2d(refine, channels, 3, padding=1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, source: Tensor) -> Tensor:
        """``[n, channels, h, w]``, nominally in [-1, 1], to the same shape."""
        h = functional.silu(self.norm(self.blocks(self.inlet(source))))
        fine = self.refine(torch.cat([self.shuffle(self.expand(h)), source], dim=1))
        return source + self.outlet(fine)


class EnlargingBlock(nn.Module):
    """Two convolutions around a skip, without normalisation (Lim et al., 2017, section 3.1)."""

    def __init__(self, width: int) -> None:
        """Build as the identity."""
        super().__init__()
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, width, h, w]`` to the same shape."""
        return x + self.conv_2(functional.leaky_relu(self.conv_1(x), SLOPE))


class ResidualEnlarger(nn.Module):
    """An image at a multiple of its size: the detail that bicubic enlargement leaves out.

    The generator of Ledig et al. (2017, arXiv:1609.04802, section 2.1): residual blocks at the
    small size, then pixel shuffle; without batch normalisation (Wang et al., 2018,
    arXiv:1809.00219, section 3.1), and on top of the bicubic image.
    """

    outputs: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        channels: int = 3,
        factor: int = 4,
        width: int = 48,
        blocks: int = 4,
        refine: int = 16,
    ) -> None:
        """Build as bicubic enlargement by ``factor``."""
        super().__init__()
        self.factor = factor
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(EnlargingBlock(width) for _ in range(blocks)))
        self.expand = nn.Conv2d(width, refine * factor * factor, 1)
        self.shuffle = nn.PixelShuffle(factor)
        self.refine = nn.Conv2d(refine, refine, 3, padding=1)
        self.outlet = nn.Conv2d(refine, channels, 3, padding=1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, source: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, channels, factor h, factor w]``."""
        fine = self.shuffle(self.expand(self.blocks(self.inlet(source))))
        fine = functional.leaky_relu(fine, SLOPE)
        fine = functional.leaky_relu(self.refine(fine), SLOPE)
        base = functional.interpolate(
            source, scale_factor=float(self.factor), mode="bicubic", align_corners=False
        )
        return base + self.outlet(fine)


class PatchDiscriminator(nn.Module):
    """Scores of overlapping patches (Isola et al., 2017, section 3.2.2); only training needs it.

    Spectrally normalised (Miyato et al., 2018, arXiv:1802.05957). A score is no density.
    """

    def __init__(self, channels: int, widths: Sequence[int] = (24, 48, 64)) -> None:
        """Build for ``channels`` in; each width but the last halves the resolution."""
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((channels, *widths[:-1])):
            layers += [
                spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)),
                nn.LeakyReLU(SLOPE),
            ]
        layers += [
            spectral_norm(nn.Conv2d(widths[-2], widths[-1], 3, padding=1)),
            nn.LeakyReLU(SLOPE),
            spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to ``[n, 1, h', w']``, one score a patch."""
        return self.layers(x)
