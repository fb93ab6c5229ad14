"""Annealed Langevin dynamics: many small steps of noise and score at every level."""

from __future__ import annotations

import math

from services.sampling.plan import Row
from services.sampling.schedule import Grid

MOST_EVALUATIONS = 10_000
"""Of a whole trajectory; levels that would need more are refused."""


def annealed(grid: Grid, *, steps: int = 100, step_size: float = 2e-5) -> list[Row]:
    """Song and Ermon (2019), algorithm 1, and one last denoising.

    At level i, ``steps`` times ``x' = x + a_i / 2 score + sqrt(a_i) noise`` with
    ``a_i = step_size sigma_i^2 / sigma_L^2`` and the score ``(D - x) / sigma_i^2``. The state then
    still holds the noise of the last level, which one more evaluation takes away
    (Jolicoeur-Martineau et al., 2020, section 3.1).

    Args:
        grid: levels whose signal is 1.
        steps: T, at every level.
        step_size: epsilon.
    """
    last = len(grid.times) - 1
    least = grid.sigmas[last]
    share = step_size / (2 * least**2)
    spread = math.sqrt(step_size) / least
    rows = []
    for i in range(last + 1):
        sigma = grid.sigmas[i]
        level = (grid.alphas[i], sigma)
        rows += [
            Row(
                time=grid.times[i],
                level=level,
                next_level=level,
                state=1 - share,
                denoised=(share,),
                noise=spread * sigma,
                correction=k > 0,
            )
            for k in range(steps)
        ]
    level, clean = (grid.alphas[last], least), (grid.alphas[last + 1], grid.sigmas[last + 1])
    rows.append(Row(grid.times[last], level, clean, 0.0, (1.0,), correction=True))
    return rows
