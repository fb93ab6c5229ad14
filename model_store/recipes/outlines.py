"""Outlines of captioned shapes and what they are outlines of: what pix2pix learns from.

A drawing is made with a pen of the shape's color on paper of the background's color, so that the
filled shape follows from it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model_store.recipes import shapes

PEN_WIDTHS = (0.7, 2.2)
"""Of the lines, in pixels of 32 in a row: as wide as one of 10 to 35 pixels on paper of 512."""
FREE_SHARE = 0.5
"""Share of training drawings in colors of their own, and of those whose lines are bent."""
LEAST_CONTRAST = 0.35
"""Of a pen on its paper, by its largest channel, of the range from black to white."""
BEND = 0.12
"""Standard deviation of how far a bent drawing is moved, in coordinates from -1 to 1."""
BEND_CELLS = 4

DATA_CARD = (
    f"{shapes.DATA_CARD} A drawing shows the shape's outline: a line {PEN_WIDTHS[0]:g} to "
    f"{PEN_WIDTHS[1]:g} pixels wide in the shape's color, on paper of the background's color. To "
    "train, half of the drawings have any two colors instead of the named ones, and half are bent "
    "smoothly together with what they enclose, so that a hand may draw them."
)


class Drawings(NamedTuple):
    """Outlines and filled shapes ``[n, 3, side, side]`` in [-1, 1], and factors ``[n, 6]``."""

    outline: Tensor
    image: Tensor
    factors: Tensor


def drawings(count: int, split: shapes.Split, generator: torch.Generator) -> Drawings:
    """Drawings of a split's combinations in the named colors and with straight coordinates."""
    factors = shapes.sample_factors(count, split, generator)
    distance = shapes.signed_distance(factors, generator)
    color, background = shapes.palette(factors)
    return _drawn(distance, color, background, factors, generator)


def free_drawings(count: int, generator: torch.Generator) -> Drawings:
    """Training drawings, some in any colors and some bent."""
    factors = shapes.sample_factors(count, "train", generator)
    bent = torch.rand(count, generator=generator) < FREE_SHARE
    moved = bends(count, generator) * bent.view(-1, 1, 1, 1)
    distance = shapes.signed_distance(factors, generator, moved=moved)
    free = (torch.rand(count, generator=generator) < FREE_SHARE).view(-1, 1)
    color, background = (
        torch.where(free, own, named)
        for own, named in zip(free_colors(count, generator), shapes.palette(factors), strict=True)
    )
    return _drawn(distance, color, background, factors, generator)


def line(distance: Tensor, widths: Tensor) -> Tensor:
    """How much of each pixel a line along the edge covers, in [0, 1].

    Args:
        distance: from the edge, ``[n, side, side]`` in coordinates from -1 to 1.
        widths: of the lines, ``[n]`` pixels.
    """
    pixels = distance.abs() * distance.shape[-1] / 2
    wide = widths.view(-1, 1, 1)
    return torch.minimum((wide / 2 + 0.5 - pixels).clamp(min=0), wide.clamp(max=1))


def bends(count: int, generator: torch.Generator) -> Tensor:
    """Smooth random displacements ``[count, 2, 32, 32]``."""
    coarse = BEND * torch.randn(count, 2, BEND_CELLS, BEND_CELLS, generator=generator)
    return functional.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=True)


def free_colors(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pens and papers ``[count, 3]`` of any colors that can be told apart."""
    paper = torch.rand(count, 3, generator=generator) * 2 - 1
    # Paper is often white; a pen is often black.
    paper[torch.rand(count, generator=generator) < 0.3] = 1.0
    pen = torch.rand(count, 3, generator=generator) * 2 - 1
    pen[torch.rand(count, generator=generator) < 0.2] = -1.0
    alike = (pen - paper).abs().amax(dim=1, keepdim=True) < 2 * LEAST_CONTRAST
    return torch.where(alike, -paper.sign(), pen), paper


def _drawn(
    distance: Tensor,
    color: Tensor,
    background: Tensor,
    factors: Tensor,
    generator: torch.Generator,
) -> Drawings:
    low, high = PEN_WIDTHS
    widths = low + (high - low) * torch.rand(len(factors), generator=generator)
    outline = shapes.painted(line(distance, widths), color, background)
    return Drawings(outline, shapes.painted(shapes.filled(distance), color, background), factors)
