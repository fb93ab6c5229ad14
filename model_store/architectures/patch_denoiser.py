"""Denoisers that do their work on a coarser grid than the image's, where a convolution is cheap.

Patches become channels in front, and a pixel shuffle puts them back behind; one skip at the image's
own resolution keeps what a patch would blur.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.blocks import StyledBlock
from model_store.architectures.caption_transformer import TimeEmbedding


class PatchBody(nn.Module):
    """Patchify, residual blocks that a time scales and shifts, pixel shuffle, a 3x3 refinement."""

    def __init__(
        self,
        inlets: int,
        outlets: int,
        *,
        width: int,
        blocks: int,
        style: int,
        patch: int,
        refine: int,
        dropout: float,
    ) -> None:
        """Build for ``inlets`` channels in and ``outlets`` out, 0 at initialisation."""
        super().__init__()
        self.time = nn.Sequential(TimeEmbedding(style), nn.SiLU())
        self.inlet = nn.Conv2d(inlets, width, patch, stride=patch)
        self.blocks = nn.ModuleList(StyledBlock(width, style) for _ in range(blocks))
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.GroupNorm(8, width)
        self.expand = nn.Conv2d(width, refine * patch * patch, 1)
        self.shuffle = nn.PixelShuffle(patch)
        self.refine = nn.Conv2d(refine + inlets, refine, 3, padding=1)
        self.outlet = nn.Conv2d(refine, outlets, 3, padding=1)
        for parameter in self.outlet.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``[n, inlets, h, w]``, sides multiples of the patch, and ``[n]`` in [0, 1]."""
        style = self.time(t)
        h = self.inlet(x)
        for block in self.blocks:
            h = self.dropout(block(h, style))
        fine = self.shuffle(self.expand(functional.silu(self.norm(h))))
        fine = functional.silu(self.refine(torch.cat([fine, x], dim=1)))
        return self.outlet(fine)


class PatchDenoiser(nn.Module):
    """Noisy image and time to the noise in it, for noise that preserves variance."""

    outputs: ClassVar[tuple[str, ...]] = ("epsilon",)

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        blocks: int = 3,
        style: int = 96,
        patch: int = 2,
        refine: int = 16,
        times: int = 1000,
        dropout: float = 0.0,
    ) -> None:
        """Build for times in ``0..times - 1``, whole or not."""
        super().__init__()
        self.times = times
        self.body = PatchBody(
            channels,
            channels,
            width=width,
            blocks=blocks,
            style=style,
            patch=patch,
            refine=refine,
            dropout=dropout,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``[n, channels, h, w]`` and times ``[n]`` to the noise, of the shape of ``x``."""
        return self.body(x, t / self.times)


class ExplodingScore(nn.Module):
    """Noisy image and sigma to the score, for noise that grows over an image at full strength.

    ``score = (D - x) / sigma^2`` with the preconditioned denoiser D of Karras et al. (2022,
    equation 7 and table 1), which keeps what goes into and comes out of the body at unit variance.
    """

    outputs: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        blocks: int = 3,
        style: int = 96,
        patch: int = 2,
        sigmas: Sequence[float] = (0.05, 10.0),
        sigma_data: float = 0.75,
        dropout: float = 0.0,
    ) -> None:
        """Build for ``sigmas`` from the least to the most; others count as the nearer end."""
        super().__init__()
        self.sigma_min, self.sigma_max = sigmas
        self.sigma_data = sigma_data
        self.body = PatchBody(
            channels,
            channels,
            width=width,
            blocks=blocks,
            style=style,
            patch=patch,
            refine=16,
            dropout=dropout,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``[n, channels, h, w]`` and sigmas ``[n]`` to the score, of the shape of ``x``."""
        sigma = t.clamp(self.sigma_min, self.sigma_max)
        depth = torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        sigma = sigma.view(-1, 1, 1, 1)
        norm = sigma.square() + self.sigma_data**2
        found = self.body(x / norm.sqrt(), depth)
        return self.sigma_data * found / (sigma * norm.sqrt()) - x / norm


class SuperResolver(nn.Module):
    """Noisy residual, time and the enlarged image that it belongs to: the velocity.

    The image is concatenated to the state (Saharia et al., 2021, section 2.4).
    """

    outputs: ClassVar[tuple[str, ...]] = ("velocity",)

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        blocks: int = 4,
        style: int = 96,
        patch: int = 4,
        refine: int = 16,
        times: int = 1000,
    ) -> None:
        """Build for times in ``0..times - 1``, whole or not."""
        super().__init__()
        self.times = times
        self.body = PatchBody(
            2 * channels,
            channels,
            width=width,
            blocks=blocks,
            style=style,
            patch=patch,
            refine=refine,
            dropout=0.0,
        )

    def forward(self, x: Tensor, t: Tensor, enlarged: Tensor) -> Tensor:
        """``[n, channels, h, w]``, ``[n]``, ``[n, channels, h, w]`` to the velocity."""
        return self.body(torch.cat([x, enlarged], dim=1), t / self.times)
