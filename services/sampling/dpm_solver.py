"""DPM-Solver++ and UniPC: multistep solvers in half the log signal-to-noise ratio.

``h`` is a step in ``lambda = log(alpha / sigma)``; it is infinite where a step leaves pure noise,
and every limit that it meets here is finite.
"""

from __future__ import annotations

import math

from services.sampling.one_step import step
from services.sampling.plan import Row
from services.sampling.schedule import Grid

MANY_STEPS = 15
"""From so many steps on, the last one keeps its order where it does not reach the clean image."""


def multistep_2(grid: Grid) -> list[Row]:
    """DPM-Solver++ 2M, midpoint (Lu et al., 2022, algorithm 2); first order at both ends."""
    rows = []
    for i in range(len(grid.times)):
        alpha, next_alpha = grid.alphas[i], grid.alphas[i + 1]
        keep = grid.sigmas[i + 1] / grid.sigmas[i]
        gain = next_alpha - alpha * keep
        if _is_first_order(grid, i):
            rows.append(step(grid, i, keep, (gain,)))
            continue
        share = 0.5 * _log_ratio(grid, i) / _log_ratio(grid, i - 1)
        rows.append(step(grid, i, keep, (gain * (1 + share), -gain * share)))
    return rows


def multistep_sde_2(grid: Grid) -> list[Row]:
    """DPM-Solver++ 2M along the reverse SDE (Lu et al., 2022, appendix A; SDE-DPM-Solver++ 2M).

    Its first order is `one_step.ancestral`: a share ``exp(-h)`` of the new noise is the old one.
    """
    rows = []
    for i in range(len(grid.times)):
        keep, gain, fresh = _sde(grid, i)
        share = 0.0
        if not _is_first_order(grid, i):
            share = 0.5 * _log_ratio(grid, i) / _log_ratio(grid, i - 1)
        rows.append(step(grid, i, keep, (gain * (1 + share), -gain * share), fresh))
    return rows


def multistep_sde_3(grid: Grid) -> list[Row]:
    """DPM-Solver++ 3M along the reverse SDE, as k-diffusion's ``sample_dpmpp_3m_sde`` with eta 1.

    Lu et al. (2022), section 4 and appendix B, third order: the denoised image is extrapolated by
    its divided differences ``d_1, d_2`` in lambda, weighted by ``phi_2, phi_3`` of ``2 h``.
    """
    rows = []
    for i in range(len(grid.times)):
        keep, gain, fresh = _sde(grid, i)
        h, next_alpha = _log_ratio(grid, i), grid.alphas[i + 1]
        if i == 0 or grid.sigmas[i + 1] in (0, grid.sigmas[i]):
            rows.append(step(grid, i, keep, (gain,), fresh))
            continue
        phi_2 = math.expm1(-2 * h) / (2 * h) + 1
        inverse = h / _log_ratio(grid, i - 1)
        if i == 1:
            first = next_alpha * phi_2 * inverse
            rows.append(step(grid, i, keep, (gain + first, -first), fresh))
            continue
        phi_3 = phi_2 / (2 * h) - 0.5
        older = h / _log_ratio(grid, i - 2)
        # r_0 / (r_0 + r_1) and 1 / (r_0 + r_1), written for an infinite r_1.
        share = older / (inverse + older)
        curve = inverse * older / (inverse + older)
        recent = next_alpha * (phi_2 * (1 + share) - phi_3 * curve) * inverse
        former = next_alpha * (phi_3 * curve - phi_2 * share) * older
        weights = (gain + recent, former - recent, -former)
        rows.append(step(grid, i, keep, weights, fresh))
    return rows


def unified(grid: Grid) -> list[Row]:
    """UniPC of order 2, B_2(h), with its corrector (Zhao et al., 2023, algorithms 1 and 2).

    The corrector of a step needs the denoised image at its end, which the next evaluation makes;
    it moves the state by a sum of denoised images, so that it and the next predictor are one row.
    """
    rows = []
    for i in range(len(grid.times)):
        keep, gain = _ode(grid, i)
        images = [gain, 0.0, 0.0]
        if _order(grid, i) == 2:
            # 0.5 (D_(k-1) - D_k) / r with r = -h_(k-1) / h_k (algorithm 2; one half is exact).
            share = 0.5 * _log_ratio(grid, i) / _log_ratio(grid, i - 1)
            images[0] += gain * share
            images[1] -= gain * share
        if i > 0:
            moves = _correction(grid, i - 1)
            images = [image + keep * move for image, move in zip(images, moves, strict=True)]
        rows.append(step(grid, i, keep, tuple(images)))
    return rows


def _correction(grid: Grid, i: int) -> tuple[float, float, float]:
    """What UniC adds to the end of step i, as weights of ``D_(i+1), D_i, D_(i-1)``.

    Zhao et al. (2023), eq. 9, less what the predictor has added already.
    """
    _, gain = _ode(grid, i)
    if _order(grid, i) == 1:
        return 0.5 * gain, -0.5 * gain, 0.0
    h = _log_ratio(grid, i)
    r = -_log_ratio(grid, i - 1) / h
    phi_1 = math.expm1(-h)
    phi_2 = -phi_1 / h - 1
    phi_3 = -phi_2 / h - 0.5
    b_1, b_2 = phi_2 / phi_1, 2 * phi_3 / phi_1
    past = (b_2 - b_1) / (r - 1)
    newest = b_1 - past
    older = gain * (past - 0.5) / r
    return gain * newest, -gain * newest - older, older


def _order(grid: Grid, i: int) -> int:
    """UniPC starts at first order and ends at it."""
    return min(2, i + 1, len(grid.times) - i)


def _is_first_order(grid: Grid, i: int) -> bool:
    """DPM-Solver++ starts at first order, and ends at it to reach the clean image."""
    steps = len(grid.times)
    ends = grid.sigmas[i + 1] == 0 or steps < MANY_STEPS
    return i == 0 or (i == steps - 1 and bool(ends))


def _ode(grid: Grid, i: int) -> tuple[float, float]:
    """``sigma' / sigma`` and ``alpha' (1 - exp(-h))``."""
    keep = grid.sigmas[i + 1] / grid.sigmas[i]
    return keep, grid.alphas[i + 1] - grid.alphas[i] * keep


def _sde(grid: Grid, i: int) -> tuple[float, float, float]:
    """``exp(-h) sigma' / sigma``, ``alpha' (1 - exp(-2h))`` and the deviation of fresh noise."""
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    ratio = next_sigma * alpha / (next_alpha * sigma)
    keep = next_sigma * ratio / sigma
    fresh = next_sigma * math.sqrt(max(0.0, 1 - ratio**2))
    return keep, next_alpha - alpha * keep, fresh


def _log_ratio(grid: Grid, i: int) -> float:
    """The h of step i: infinite from pure noise, and to the clean image."""
    before = grid.alphas[i] * grid.sigmas[i + 1]
    return math.inf if before == 0 else math.log(grid.alphas[i + 1] * grid.sigmas[i] / before)
