"""Noise levels that a request can ask for in place of those its sampler visits by itself.

Levels are the sigma of Karras et al. (2022), ``sigma / alpha``; along a straight flow they are its
time. All run from the noisiest level to the cleanest, without the clean image.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Array = NDArray[np.float64]
SigmaSchedule = Literal["karras", "exponential", "beta", "align_your_steps"]
SIGMA_SCHEDULES: tuple[SigmaSchedule, ...] = get_args(SigmaSchedule)
AlignedModel = Literal["stable_diffusion", "stable_diffusion_xl", "stable_video_diffusion"]

RHO = 7.0
"""Karras et al. (2022), table 1."""
BETA_SHAPE = 0.6
"""Lee et al. (2024), section 4: both shapes of the beta distribution."""

ALIGNED: dict[AlignedModel, tuple[float, ...]] = {
    "stable_diffusion": (
        14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029,
    ),
    "stable_diffusion_xl": (
        14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029,
    ),
    "stable_video_diffusion": (
        700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002,
    ),
}  # fmt: skip
"""Sabour et al. (2024), Align Your Steps: the levels of ten steps, and the one they end at."""


def spread(
    name: Literal["karras", "exponential", "beta"], noisiest: float, cleanest: float, steps: int
) -> Array:
    """``steps`` levels from the noisiest to the cleanest; a single step takes the noisiest.

    Args:
        name: ``karras``: even in ``sigma^(1/7)`` (Karras et al., 2022, eq. 5); ``exponential``:
            even in log sigma; ``beta``: at the quantiles of Beta(0.6, 0.6), dense at both ends
            (Lee et al., 2024, section 4).
        noisiest: the first level, above 0.
        cleanest: the last level, above 0.
        steps: at least 1.
    """
    ramp = np.linspace(0.0, 1.0, steps)
    if name == "karras":
        first, last = noisiest ** (1 / RHO), cleanest ** (1 / RHO)
        levels: Array = (first + ramp * (last - first)) ** RHO
    elif name == "exponential":
        levels = np.exp(np.linspace(math.log(noisiest), math.log(cleanest), steps))
    else:
        quantiles = betaincinv(BETA_SHAPE, BETA_SHAPE, 1 - ramp)
        levels = cleanest + quantiles * (noisiest - cleanest)
    levels[0] = noisiest  # rounding must not pass the end of the schedule
    return levels


def aligned(model: AlignedModel, steps: int) -> Array:
    """The published levels of a model for ``steps`` steps, interpolated evenly in log sigma.

    Ten steps are as published (Sabour et al., 2024); the last published level, in whose place
    samplers go to the clean image, is left out.
    """
    published = np.log(ALIGNED[model])
    places = np.linspace(0.0, len(published) - 1, steps + 1)[:-1]
    levels: Array = np.exp(np.interp(places, np.arange(len(published)), published))
    return levels
