"""A spread-spectrum watermark in the discrete cosine transform of luminance blocks.

Cox, Kilian, Leighton and Shamoon, Secure spread spectrum watermarking for multimedia, IEEE
Transactions on Image Processing 6(12), 1997. It survives JPEG, not a crop, a turn or a change of
size.

The payload seeds a pattern of signs, one per coefficient. Detection correlates: for any fixed image
with coefficients c and random signs s, z = <c, s> / |c| has P(z >= t) <= exp(-t^2 / 2) (Hoeffding,
1963), whatever the image shows. So the false-positive bound holds without a model of images.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from services.core.images import Pixels
from services.provenance.watermark import Detection

Floats = NDArray[np.float64]

BLOCK: Final = 8
BAND: Final = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (4, 0))
"""Low frequencies without the mean: JPEG keeps them best, and images have little else."""
STRENGTH: Final = 5.0
"""Of a coefficient of the orthonormal transform: about 2 grey levels in each pixel."""
FOUND_AT: Final = 5.5
"""z; a bound of 3e-7 on false positives."""
LEAST_BLOCKS: Final = 16
"""32x32 pixels. Below 64x64 the mark of a busy picture may stay under `FOUND_AT`."""
_LUMINANCE: Final = np.array([0.299, 0.587, 0.114])
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*BAND, strict=True))


class SpreadSpectrum:
    """Implements `services.provenance.watermark.Watermark`."""

    def embed(self, pixels: Pixels, payload: bytes) -> Pixels:
        """See `Watermark.embed`."""
        blocks = _blocks(_luminance(pixels))
        if len(blocks) < LEAST_BLOCKS:
            return pixels
        signs = _signs(payload, len(blocks))
        spectrum = dctn(blocks, axes=(1, 2), norm="ortho")
        spectrum[:, _ROWS, _COLUMNS] += STRENGTH * signs
        change = idctn(spectrum, axes=(1, 2), norm="ortho") - blocks
        marked = pixels.astype(np.float64)
        height, width = _whole(pixels)
        marked[:, :height, :width] += _unblocked(change, height, width)
        return np.clip(np.rint(marked), 0, 255).astype(np.uint8)

    def detect(self, pixels: Pixels, payload: bytes) -> Detection:
        """See `Watermark.detect`."""
        z = self.score(pixels, payload)
        return Detection(z >= FOUND_AT, math.exp(-(max(z, 0.0) ** 2) / 2))

    def score(self, pixels: Pixels, payload: bytes) -> float:
        """The correlation z; 0 for an image too small or without any structure."""
        blocks = _blocks(_luminance(pixels))
        if len(blocks) < LEAST_BLOCKS:
            return 0.0
        band = dctn(blocks, axes=(1, 2), norm="ortho")[:, _ROWS, _COLUMNS]
        # Strong edges are few and would drown the rest: every coefficient speaks within limits.
        # The same limits for every payload, so the bound above holds as it stands.
        band = np.clip(band, -2 * STRENGTH, 2 * STRENGTH)
        norm = float(np.linalg.norm(band))
        return 0.0 if norm < 1e-9 else float((band * _signs(payload, len(blocks))).sum()) / norm


def _luminance(pixels: Pixels) -> Floats:
    """``[height, width]``, cut to whole blocks."""
    height, width = _whole(pixels)
    planes = pixels[:, :height, :width].astype(np.float64)
    found: Floats = planes[0] if len(planes) == 1 else np.tensordot(_LUMINANCE, planes, 1)
    return found


def _whole(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[1] // BLOCK * BLOCK, pixels.shape[2] // BLOCK * BLOCK


def _blocks(plane: Floats) -> Floats:
    """``[blocks, 8, 8]``."""
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    grid = plane.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
    return grid.reshape(rows * columns, BLOCK, BLOCK)


def _unblocked(blocks: Floats, height: int, width: int) -> Floats:
    grid = blocks.reshape(height // BLOCK, width // BLOCK, BLOCK, BLOCK).swapaxes(1, 2)
    return grid.reshape(height, width)


def _signs(payload: bytes, blocks: int) -> Floats:
    """``[blocks, len(BAND)]`` of -1 and 1 that nobody can guess without the payload."""
    count = blocks * len(BAND)
    stream = hashlib.shake_256(b"atelier-watermark-1" + payload).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))[:count]
    return (bits.astype(np.float64) * 2 - 1).reshape(blocks, len(BAND))
