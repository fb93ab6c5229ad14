"""Captioned shapes: the made data set that the shape models learn from.

One anti-aliased shape on a flat background, drawn from a signed distance with a soft edge of one
pixel. Every image is a pure function of six named factors and four continuous ones, so what a model
got right can be measured exactly. Coordinates are in [-1, 1] with y pointing down.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]

POOL_PART = 500

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "cyan": (50, 200, 210),
    "pink": (245, 130, 180),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (15, 15, 20),
    "gray": (128, 128, 128),
    "brown": (110, 75, 45),
}
RADII: dict[str, float] = {"small": 0.28, "medium": 0.38, "large": 0.50}
OFFSETS: tuple[float, float, float] = (-0.42, 0.0, 0.42)

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "ring", "cross", "star"),
    "color": tuple(COLORS),
    "background": tuple(BACKGROUNDS),
    "size": tuple(RADII),
    "vertical": ("top", "middle", "bottom"),
    "horizontal": ("left", "center", "right"),
}
"""Factor name to its values; a combination is one index per factor, in this order."""

DATA_CARD = (
    "Captioned shapes, made by `model_store.recipes.shapes`: one anti-aliased shape (circle, "
    "square, triangle, ring, cross or star) in one of eight colors and three sizes, at one of nine "
    "places on one of four flat backgrounds, 32x32 RGB, with jittered radius, centre and angle. A "
    "hash of the six factors splits the 5,184 combinations: one in ten is never trained on and "
    "serves as the test split, one in ten is for choosing, the rest is for training."
)
"""What every card of a model trained on this data says about it."""


def _length(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y + 1e-12)


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return _length(x, y) - 1.0


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    outside = _length(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.86, 0.86)


def _polygon(x: Tensor, y: Tensor, vertices: Sequence[tuple[float, float]]) -> Tensor:
    """Signed distance to a simple polygon: nearest edge, sign by crossing parity."""
    nearest = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(vertices, (*vertices[1:], vertices[0]), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, _length(wx - ex * along, wy - ey * along))
        if ay != by:
            crosses = (y < ay) != (y < by)
            inside ^= crosses & (x < ax + (y - ay) * ex / ey)
    return torch.where(inside, -nearest, nearest)


def _around(count: int, radii: Sequence[float]) -> list[tuple[float, float]]:
    """Vertices at equal angles, the first at the top, their radii taken in turn."""
    angles = [2 * math.pi * i / count for i in range(count)]
    return [
        (math.sin(a) * radii[i % len(radii)], -math.cos(a) * radii[i % len(radii)])
        for i, a in enumerate(angles)
    ]


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y, _around(3, [1.15]))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (_length(x, y) - 0.74).abs() - 0.26


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 1.0, 0.32), _box(x, y, 0.32, 1.0))


def _star(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y, _around(10, [1.15, 0.47]))


_DISTANCES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _circle,
    _square,
    _triangle,
    _ring,
    _cross,
    _star,
)


@cache
def combinations(split: Split) -> Tensor:
    """All factor combinations of one split.

    A combination belongs to a split by a hash of its values: one in ten is never trained on
    (``test``), one in ten is for choosing (``validation``), the rest is ``train``.

    Returns:
        int64 tensor of shape ``[count, 6]``: the indices of the values, factors in order.
    """
    chosen = []
    for indices in itertools.product(*(range(len(values)) for values in FACTORS.values())):
        words = " ".join(values[i] for values, i in zip(FACTORS.values(), indices, strict=True))
        bucket = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") % 10
        if {0: "test", 1: "validation"}.get(bucket, "train") == split:
            chosen.append(indices)
    return torch.tensor(chosen)


def sample_factors(count: int, split: Split, generator: torch.Generator) -> Tensor:
    """``[count, 6]`` combinations drawn uniformly from a split."""
    table = combinations(split)
    return table[torch.randint(len(table), (count,), generator=generator)]


def caption(factors: Sequence[int]) -> str:
    """The full caption of one combination, as in ``a large red star at the top left on black``."""
    shape, color, background, size, vertical, horizontal = (
        values[i] for values, i in zip(FACTORS.values(), factors, strict=True)
    )
    return f"a {size} {color} {shape} at the {vertical} {horizontal} on {background}"


def signed_distance(
    factors: Tensor,
    generator: torch.Generator,
    *,
    resolution: int = 32,
    moved: Tensor | None = None,
) -> Tensor:
    """How far every pixel is from the edge of its shape, with jittered radius, centre and angle.

    Args:
        factors: int64 ``[n, 6]``.
        generator: source of the four continuous factors.
        resolution: height and width in pixels.
        moved: ``[n, 2, resolution, resolution]``, added to the coordinates x and y of each pixel.

    Returns:
        float32 ``[n, resolution, resolution]``, negative inside, in units of the coordinates.
    """
    count = len(factors)
    jitter = torch.rand((4, count), generator=generator) * 2 - 1
    offsets = torch.tensor(OFFSETS)
    radius = torch.tensor(list(RADII.values()))[factors[:, 3]] + 0.02 * jitter[0]
    center_y = offsets[factors[:, 4]] + 0.06 * jitter[1]
    center_x = offsets[factors[:, 5]] + 0.06 * jitter[2]
    angle = 0.4 * jitter[3]

    axis = (torch.arange(resolution) + 0.5) * 2 / resolution - 1
    y = axis.view(1, -1, 1) - center_y.view(-1, 1, 1)
    x = axis.view(1, 1, -1) - center_x.view(-1, 1, 1)
    if moved is not None:
        x, y = x + moved[:, 0], y + moved[:, 1]
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    scale = radius.view(-1, 1, 1)
    u, v = (cos * x + sin * y) / scale, (cos * y - sin * x) / scale

    distance = torch.empty(count, resolution, resolution)
    for index, shape_distance in enumerate(_DISTANCES):
        rows = factors[:, 0] == index
        if rows.any():
            distance[rows] = shape_distance(u[rows], v[rows]) * scale[rows]
    return distance


def palette(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Color and background of each combination, ``[n, 3]`` each in [-1, 1]."""
    colors = torch.tensor(list(COLORS.values())) / 127.5 - 1
    backgrounds = torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1
    return colors[factors[:, 1]], backgrounds[factors[:, 2]]


def painted(coverage: Tensor, color: Tensor, background: Tensor) -> Tensor:
    """A color laid on a background.

    Args:
        coverage: ``[n, h, w]``, 1 where nothing of the background is left.
        color: ``[n, 3]``.
        background: ``[n, 3]``.

    Returns:
        ``[n, 3, h, w]``.
    """
    paper = background[:, :, None, None]
    return paper + coverage.unsqueeze(1) * (color[:, :, None, None] - paper)


def filled(distance: Tensor) -> Tensor:
    """How much of each pixel lies inside, in [0, 1], of distances ``[n, side, side]``."""
    return (0.5 - distance * distance.shape[-1] / 2).clamp(0, 1)


def render(factors: Tensor, generator: torch.Generator, *, resolution: int = 32) -> Tensor:
    """Draw one image per combination, with jittered radius, centre and angle.

    Args:
        factors: int64 ``[n, 6]``.
        generator: source of the four continuous factors.
        resolution: height and width in pixels.

    Returns:
        float32 ``[n, 3, resolution, resolution]`` in [-1, 1].
    """
    distance = signed_distance(factors, generator, resolution=resolution)
    return painted(filled(distance), *palette(factors))


def batch(
    count: int, split: Split, generator: torch.Generator, *, resolution: int = 32
) -> tuple[Tensor, Tensor]:
    """Images ``[count, 3, resolution, resolution]`` in [-1, 1] and their factors ``[count, 6]``."""
    factors = sample_factors(count, split, generator)
    return render(factors, generator, resolution=resolution), factors


def pool(count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images and their factors, `POOL_PART` at a time as `batch` gives them.

    Args:
        count: how many in all; what does not fill a part is left out.
        seed: of the drawing.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count // POOL_PART):
        yield batch(POOL_PART, "train", generator)
