"""Whether memory grows: a straight line through what a process held, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MEGABYTE = 1e6
HOUR = 3600.0
SURE = 2.0
"""Standard errors on either side of a slope within which it may lie."""
FEWEST = 5
"""Blocks through which a line with an error can be drawn."""

Found = Literal["flat", "grows", "not known"]


@dataclass(frozen=True, slots=True)
class Slope:
    """Megabytes per hour, with the standard error of the regression."""

    per_hour: float
    error: float

    def found(self, most: float) -> Found:
        """Whether it is below ``most`` megabytes per hour, above, or too uncertain to say."""
        if self.per_hour + SURE * self.error < most:
            return "flat"
        if self.per_hour - SURE * self.error > most:
            return "grows"
        return "not known"

    def as_json(self) -> dict[str, Any]:
        """Rounded; what is not known is null."""
        values = {"megabytes_per_hour": self.per_hour, "standard_error": self.error}
        return {name: round(v, 3) if math.isfinite(v) else None for name, v in values.items()}


def slope(seconds: Sequence[float], held: Sequence[float], *, block: float = 60.0) -> Slope:
    """The line of least squares through the means of blocks.

    What a process holds now is much what it held a moment ago; the errors of a regression through
    every sample would be too small. Means over a minute are nearly independent.

    Args:
        seconds: when each sample was taken, ascending.
        held: bytes at each.
        block: seconds of a block.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(seconds) != len(held):
        raise ValueError(f"{len(seconds)} moments and {len(held)} samples: one of each is needed")
    groups: dict[int, list[tuple[float, float]]] = {}
    for at, size in zip(seconds, held, strict=True):
        groups.setdefault(int((at - seconds[0]) // block), []).append((at, size))
    if len(groups) < FEWEST:
        return Slope(math.nan, math.inf)
    means = np.array([np.mean(group, axis=0) for group in groups.values()])
    hours, megabytes = means[:, 0] / HOUR, means[:, 1] / MEGABYTE
    centred = hours - hours.mean()
    spread = float(centred @ centred)
    rate = float(centred @ megabytes) / spread
    rest = megabytes - megabytes.mean() - rate * centred
    variance = float(rest @ rest) / (len(means) - 2)
    return Slope(rate, math.sqrt(variance / spread))
