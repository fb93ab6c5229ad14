"""Outlines as a person draws them with a broad pen: what the translator fills."""

from __future__ import annotations

import io
import math

from PIL import Image, ImageDraw

SIDE = 256
PEN = 12
Point = tuple[float, float]

COLORS = {
    "a red heart": ("#dc2828", "#f5f5f5"),
    "a yellow star": ("#f0d228", "#0f0f14"),
    "a cyan ring": ("#32c8d2", "#6e4b2d"),
    "a purple house": ("#963cbe", "#ffffff"),
}
"""Of every drawing the pen and the paper."""


def drawing(name: str) -> bytes:
    """One of `COLORS` as a PNG of 256x256: closed lines of 12 pixels."""
    pen, paper = COLORS[name]
    sheet = Image.new("RGB", (SIDE, SIDE), paper)
    brush = ImageDraw.Draw(sheet)
    for points in _lines(name):
        brush.line([*points, *points[:2]], fill=pen, width=PEN, joint="curve")
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _lines(name: str) -> list[list[Point]]:
    if name.endswith("ring"):
        return [_circle(80), _circle(38)]
    if name.endswith("star"):
        return [_star(10, (95, 40))]
    if name.endswith("house"):
        return [[(70, 200), (70, 115), (128, 60), (186, 115), (186, 200)]]
    return [_heart()]


def _at(angle: float, radius: float) -> Point:
    return 128 + radius * math.sin(angle), 128 - radius * math.cos(angle)


def _circle(radius: float) -> list[Point]:
    return [_at(2 * math.pi * i / 60, radius) for i in range(60)]


def _star(corners: int, radii: tuple[float, float]) -> list[Point]:
    return [_at(2 * math.pi * i / corners, radii[i % 2]) for i in range(corners)]


def _heart() -> list[Point]:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    return [
        (
            128 + 5 * 16 * math.sin(t) ** 3,
            120
            - 5 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in turns
    ]
