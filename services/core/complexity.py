"""How complex an image is: the bits that a lossless compressor needs for it. No torch."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from services.core.images import Pixels

MOST_VALUES = 1 << 18
"""Above this nothing is compressed: it would hold up other requests for more than a moment."""
RAW_DEFLATE = -15
"""zlib's window bits for a stream without a header, which would outweigh a small image."""
LEVEL = 9

Bytes = NDArray[np.uint8]
Wide = NDArray[np.int16]


def complexity_bits(pixels: Pixels) -> int | None:
    """Bits of the shortest of five compressions of an image.

    Deflate (RFC 1951) of the pixels as they are, and of what each of PNG's filters leaves of them
    (W3C PNG, section 9.2); container headers are not counted. A constant image takes a few bytes,
    noise a little more than 8 bits a value.

    Args:
        pixels: uint8 ``[channels, height, width]``.

    Returns:
        The bits, or ``None`` for an image of more than `MOST_VALUES` values.
    """
    if pixels.size > MOST_VALUES:
        return None
    return 8 * min(_deflated(residual) for residual in _residuals(pixels))


def _deflated(values: Bytes) -> int:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW_DEFLATE)
    return len(compressor.compress(values.tobytes())) + len(compressor.flush())


def _residuals(pixels: Pixels) -> tuple[Bytes, ...]:
    """The pixels less what each filter expects, pixel by pixel with their channels interleaved."""
    x = pixels.transpose(1, 2, 0).astype(np.int16)
    padded = np.pad(x, ((1, 0), (1, 0), (0, 0)))
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    expected = (0, left, above, (left + above) // 2, _paeth(left, above, corner))
    return tuple(((x - values) % 256).astype(np.uint8) for values in expected)


def _paeth(left: Wide, above: Wide, corner: Wide) -> Wide:
    """Of the three neighbours the one nearest to ``left + above - corner``; the first if equal."""
    plane = left + above - corner
    neighbours = np.stack([left, above, corner])
    nearest = np.abs(neighbours - plane).argmin(axis=0)
    found: Wide = np.take_along_axis(neighbours, nearest[None], axis=0)[0]
    return found
