"""What is left to say of an image once another, close to it, is known. No torch."""

from __future__ import annotations

import numpy as np

from services.core.images import Pixels

SCALES = 2.0 ** np.arange(-2, 6.5, 0.5)
"""Widths of the logistic around each expected value, in steps of 255."""
ESCAPE = 2.0**-10
"""Share of a uniform distribution, so that no value is impossible."""
LARGEST = 255


def residual_bits(pixels: Pixels, expected: Pixels) -> float:
    """Bits of an image under a discretised logistic around another (Salimans et al., 2017, eq. 2).

    The width is the best of `SCALES` for this image, and which one it is costs its bits too: the
    number is the length of a description from which the image can be read again.

    Args:
        pixels: uint8 ``[channels, height, width]``.
        expected: of the same shape.
    """
    given, center = pixels.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    above = np.where(given == LARGEST, np.inf, given - center + 0.5)
    below = np.where(given == 0, -np.inf, given - center - 0.5)
    bits = []
    for scale in SCALES:
        share = _logistic(above / scale) - _logistic(below / scale)
        bits.append(-np.log2((1 - ESCAPE) * share + ESCAPE / (LARGEST + 1)).sum())
    return float(min(bits) + np.log2(len(SCALES)))


def _logistic(x: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-x))``, without overflow."""
    found: np.ndarray = (1 + np.tanh(x / 2)) / 2
    return found
