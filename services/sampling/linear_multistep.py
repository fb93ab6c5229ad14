"""Linear multistep methods on the slope of the path: LMS and PNDM.

The slope is the noise that the denoiser sees, ``eps_j = (x_j - alpha_j D_j) / sigma_j``; along a
straight flow it is the velocity ``(x_j - D_j) / sigma_j``. Earlier slopes are made of remembered
states and denoised images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.sampling.plan import HISTORY, Row
from services.sampling.schedule import Array, Grid

LMS_ORDER = 4

# Coefficients of Adams and Bashforth, newest slope first.
_ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def lms(grid: Grid) -> list[Row]:
    """Linear multistep of order 4 (Adams and Bashforth with uneven steps), as in k-diffusion.

    Along ``y = x / alpha`` the slope is the noise, and ``s = sigma / alpha`` the time (Karras et
    al., 2022, eq. 1 with sigma(t) = t); along a straight flow both are the state and its time.
    """
    scales = np.ones_like(grid.alphas) if grid.straight else grid.alphas
    times = grid.sigmas / scales
    rows = []
    for i in range(len(grid.times)):
        order = min(i + 1, LMS_ORDER)
        visited = times[i - order + 1 : i + 1][::-1]
        weights = _integrals(visited, times[i], times[i + 1])
        slopes = [_Slope(scales[i + 1] * w, i - j, age=j) for j, w in enumerate(weights)]
        rows.append(_row(grid, i, i + 1, scales[i + 1] / scales[i], slopes))
    return rows


def pndm(grid: Grid) -> list[Row]:
    """Pseudo linear multistep (Liu et al., 2022, eqs. 9 and 12) without Runge-Kutta steps.

    As Stable Diffusion runs it: the first step is made twice, the second time with the mean of
    the slopes at both of its ends, and later steps are Adams-Bashforth of up to order 4.
    """
    rows = [_transfer(grid, 0, [(1.0, 0, 0)])]
    if len(grid.times) > 1:
        rows.append(_transfer(grid, 0, [(0.5, 1, 0), (0.5, 0, 1)], again=True))
    for i in range(1, len(grid.times)):
        weights = _ADAMS[min(i, 3)]
        levels = range(i, i - len(weights), -1)
        # The slope at level 0 is that of the first evaluation, one before the repeated one.
        ages = [i - j if j else i + 1 for j in levels]
        rows.append(_transfer(grid, i, list(zip(weights, levels, ages, strict=True))))
    return rows


@dataclass(frozen=True)
class _Slope:
    """A slope's weight, the level where it was taken, and how many evaluations ago."""

    weight: float
    level: int
    age: int


def _transfer(
    grid: Grid, i: int, slopes: Sequence[tuple[float, int, int]], *, again: bool = False
) -> Row:
    """From level i to the next along a mean slope (Liu et al., 2022, eq. 9).

    ``x' = alpha' (x - sigma e) / alpha + sigma' e``. ``again``: the state is that of the last
    evaluation, and this one took place at the next level.
    """
    keep = grid.alphas[i + 1] / grid.alphas[i]
    turn = grid.sigmas[i + 1] - keep * grid.sigmas[i]
    found = [_Slope(turn * weight, level, age) for weight, level, age in slopes]
    return _row(grid, i + again, i + 1, keep, found, state_age=int(again))


def _row(
    grid: Grid,
    i: int,
    end: int,
    keep: float,
    slopes: Sequence[_Slope],
    *,
    state_age: int = 0,
) -> Row:
    """The row ``keep x + sum of weighted slopes`` of an evaluation at level i."""
    states, images = np.zeros(HISTORY), np.zeros(HISTORY)
    states[state_age] = keep
    for slope in slopes:
        alpha = 1.0 if grid.straight else grid.alphas[slope.level]
        share = slope.weight / grid.sigmas[slope.level]
        states[slope.age] += share
        images[slope.age] -= share * alpha
    return Row(
        time=grid.times[i],
        level=(grid.alphas[i], grid.sigmas[i]),
        next_level=(grid.alphas[end], grid.sigmas[end]),
        state=float(states[0]),
        denoised=tuple(images),
        past_states=tuple(states[1:]),
        correction=state_age > 0,
    )


def _integrals(visited: Array, start: float, end: float) -> list[float]:
    """Integrals over a step of the polynomials that are 1 at one visited time, 0 at the others.

    Two Gauss-Legendre nodes are exact up to the third degree, that of four visited times.
    """
    nodes, weights = np.polynomial.legendre.leggauss(2)
    half = (end - start) / 2
    points = start + half * (nodes + 1)
    found = []
    for k, at in enumerate(visited):
        others = np.delete(visited, k)
        basis = np.prod((points[:, None] - others) / (at - others), axis=1)
        found.append(float(half * (weights * basis).sum()))
    return found
