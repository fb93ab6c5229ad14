"""Samplers that look at no more than the evaluation under way, and those of two ticks a step."""

from __future__ import annotations

import math

from services.sampling.plan import Row
from services.sampling.schedule import Grid

LANGEVIN_SNR = 0.16
"""The signal-to-noise ratio r of corrector steps (Song et al., 2021, appendix G)."""
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
"""Luo et al. (2023), appendix: the boundary condition of latent consistency models."""


def deterministic(grid: Grid) -> list[Row]:
    """DDIM with eta 0 (Song et al., 2020, eq. 12); equally Euler on the probability-flow ODE."""
    return [_deterministic(grid, i) for i in range(len(grid.times))]


def ancestral(grid: Grid) -> list[Row]:
    """DDPM's posterior (Ho et al., 2020, eq. 7); equally Euler ancestral in k-diffusion.

    With ``r = (sigma'/alpha') / (sigma/alpha)`` a share ``r`` of the new noise is the old one and
    the rest is drawn: ``x' = alpha' D + sigma' (r eps + sqrt(1 - r^2) noise)``.
    """
    return [_ancestral(grid, i) for i in range(len(grid.times))]


def predictor_corrector(grid: Grid) -> list[Row]:
    """Ancestral predictor and Langevin corrector (Song et al., 2021, algorithm 1, appendix F).

    After every step but the last, one step of Langevin dynamics at the level that was reached:
    ``x + e score + sqrt(2 e) noise`` with the score ``(alpha D - x) / sigma^2``. Algorithms 4 and 5
    set ``e = 2 (r |noise| / |score|)^2``; here it is ``2 (r sigma)^2``, what that is for the
    expected norms (and annealed Langevin dynamics in their code), so that a step stays linear.
    """
    rows = []
    last = len(grid.times) - 1
    for i in range(last + 1):
        rows.append(_ancestral(grid, i))
        if i < last:
            alpha, sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
            level, share = (alpha, sigma), 2 * LANGEVIN_SNR**2
            rows.append(
                Row(
                    time=grid.times[i + 1],
                    level=level,
                    next_level=level,
                    state=1 - share,
                    denoised=(share * alpha,),
                    noise=2 * LANGEVIN_SNR * sigma,
                    correction=True,
                )
            )
    return rows


def heun(grid: Grid) -> list[Row]:
    """Heun's method (Karras et al., 2022, algorithm 1): two evaluations a step, one at the last."""
    rows = []
    last = len(grid.times) - 1
    for i in range(last + 1):
        rows.append(_deterministic(grid, i))
        if i < last:
            rows.append(_heun_correction(grid, i))
    return rows


def consistency(grid: Grid) -> list[Row]:
    """Multistep consistency sampling (Luo et al., 2023, algorithm 3; Song et al., 2023).

    ``x' = alpha' f + sigma' noise``: go to the image ``f``, and back to the next level with all
    noise drawn anew. ``f = c_skip x + c_out D`` is the image itself at time 0; along a straight
    flow ``f = D``.
    """
    rows = []
    for i in range(len(grid.times)):
        skip, out = (0.0, 1.0) if grid.straight else _boundary(grid.times[i])
        next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
        rows.append(step(grid, i, next_alpha * skip, (next_alpha * out,), next_sigma))
    return rows


def step(grid: Grid, i: int, state: float, denoised: tuple[float, ...], noise: float = 0.0) -> Row:
    """The row that goes from level i of a grid to the next one."""
    level = (grid.alphas[i], grid.sigmas[i])
    next_level = (grid.alphas[i + 1], grid.sigmas[i + 1])
    return Row(grid.times[i], level, next_level, state, denoised, noise)


def _deterministic(grid: Grid, i: int) -> Row:
    """``x' = alpha' D + sigma' (x - alpha D) / sigma``."""
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    keep = next_sigma / sigma
    return step(grid, i, keep, (next_alpha - alpha * keep,))


def _ancestral(grid: Grid, i: int) -> Row:
    """``x' = alpha' D + sigma' (r eps + sqrt(1 - r^2) noise)``."""
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    ratio = next_sigma * alpha / (next_alpha * sigma)
    keep = next_sigma * ratio / sigma
    fresh = next_sigma * math.sqrt(max(0.0, 1 - ratio**2))
    return step(grid, i, keep, (next_alpha - alpha * keep,), fresh)


def _heun_correction(grid: Grid, i: int) -> Row:
    """The second tick of Heun's method (Karras et al., 2022, algorithm 1, line 8).

    The Euler tick left ``x~`` at the next level and ``D`` in the history; averaging both slopes
    is ``x~ + w (D' - D)``. With ``r`` as the ratio of the two noise levels, ``w`` is
    ``alpha' (1 - r) / 2r`` along Karras' sigma, and ``(1 - r) / 2r`` along the time of a straight
    flow.
    """
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    ratio = next_sigma / sigma if grid.straight else next_sigma * alpha / (next_alpha * sigma)
    weight = (1 if grid.straight else next_alpha) * (1 - ratio) / (2 * ratio)
    level = (next_alpha, next_sigma)
    return Row(grid.times[i + 1], level, level, 1.0, (weight, -weight), correction=True)


def _boundary(time: float) -> tuple[float, float]:
    """``c_skip`` and ``c_out`` (Luo et al., 2023, section 3; Song et al., 2023, eq. 5)."""
    scaled = time * TIMESTEP_SCALING
    norm = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / norm, scaled / math.sqrt(norm)
