"""What the demonstration makes of images before it sends them: masks, negatives, noise."""

from __future__ import annotations

import io
import random

from PIL import Image, ImageDraw

from services.demo.exhibits import SEED

NOISE = 48
"""Standard deviation of the noise that a digit is given, in steps of 255."""


def right_half(image: bytes) -> bytes:
    """A mask of the image's size, white where the right half is to be made anew."""
    size = Image.open(io.BytesIO(image)).size
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, *size), fill=255)
    return _png(mask)


def negative(image: bytes) -> bytes:
    """The image's negative."""
    return _png(Image.open(io.BytesIO(image)).point(lambda value: 255 - value))


def noisy(image: bytes) -> bytes:
    """The image in grey with Gaussian noise, the same each time."""
    source = random.Random(SEED)  # noqa: S311 - nothing here is a secret
    grey = Image.open(io.BytesIO(image)).convert("L")
    moved = (round(value + source.gauss(0, NOISE)) for value in grey.tobytes())
    return _png(Image.frombytes("L", grey.size, bytes(min(max(value, 0), 255) for value in moved)))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
