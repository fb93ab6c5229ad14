"""How much noise each training step of a variance-preserving diffusion adds.

Everything is formed in float32, as diffusers forms it, so that the same configuration is the same
model.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
Betas = NDArray[np.float32]


def betas_of(schedule: BetaSchedule, start: float, end: float, count: int) -> Betas:
    """The betas of a named schedule, ``[count]``.

    Args:
        schedule: ``linear`` (Ho et al., 2020, section 4); ``scaled_linear``, linear in the root
            (Rombach et al., 2022); ``squaredcos_cap_v2`` (Nichol and Dhariwal, 2021, eq. 17);
            ``sigmoid`` (Xu et al., 2022, GeoDiff).
        start: the first beta; not read by ``squaredcos_cap_v2``.
        end: the last beta; not read by ``squaredcos_cap_v2``.
        count: training steps.
    """
    if schedule == "linear":
        return np.linspace(start, end, count, dtype=np.float32)
    if schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count, dtype=np.float32) ** 2
    if schedule == "sigmoid":
        logits = np.linspace(-6, 6, count, dtype=np.float32)
        shares = 1 / (1 + np.exp(-logits))
        found: Betas = (shares * (end - start) + start).astype(np.float32)
        return found
    return np.array([_cosine_beta(i, count) for i in range(count)], dtype=np.float32)


def rescaled_to_zero_snr(betas: Betas) -> Betas:
    """Betas whose last level holds no signal at all (Lin et al., 2023, algorithm 1)."""
    roots = np.sqrt(np.cumprod(1 - betas, dtype=np.float32))
    first, last = roots[0], roots[-1]
    signal = ((roots - last) * (first / (first - last))) ** 2
    kept = np.concatenate([signal[:1], signal[1:] / signal[:-1]])
    rescaled: Betas = (1 - kept).astype(np.float32)
    return rescaled


def _cosine_beta(index: int, count: int) -> float:
    """Nichol and Dhariwal (2021), eq. 17, capped at 0.999."""

    def signal(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return min(1 - signal((index + 1) / count) / signal(index / count), 0.999)
