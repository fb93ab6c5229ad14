"""Samplers as rows of numbers.

Each supported sampler is linear in the state, in the denoised images of its last evaluations, and
in fresh noise, with coefficients that do not depend on any of them::

    x' = a x + b_0 D_k + b_1 D_(k-1) + c noise

where ``D_k`` is the denoiser's output at evaluation k. A plan holds one such row per network
evaluation, so a batch advances in one expression, whatever mixture of samplers, step counts and
places along the way its rows are at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from services.sampling.schedule import Array, Flow, Grid, Schedule, VariancePreserving

HISTORY = 2
"""How many denoised images a row can refer to: the current one and the one before."""


@dataclass(frozen=True)
class Plan:
    """One row of numbers per network evaluation; all arrays are float64 of that length.

    Attributes:
        times: what the network is told.
        alphas: signal level of the state that is evaluated.
        sigmas: noise level of the state that is evaluated.
        next_alphas: signal level after the row was applied.
        next_sigmas: noise level after the row was applied.
        state: ``a``.
        denoised: ``b``, of shape ``[evaluations, HISTORY]``.
        noise: ``c``; where it is 0 no noise is drawn.
        starts: ``[steps]``, the evaluation at which each step begins.
        initial_scale: unit noise times this is the first state.
    """

    times: Array
    alphas: Array
    sigmas: Array
    next_alphas: Array
    next_sigmas: Array
    state: Array
    denoised: Array
    noise: Array
    starts: tuple[int, ...]
    initial_scale: float = 1.0

    def __len__(self) -> int:
        """Network evaluations from noise to image."""
        return len(self.times)

    def from_step(self, step: int) -> Plan:
        """The plan from a later step on, for a trajectory that begins part of the way.

        The first evaluation has no history, so what its row takes from the past it takes from the
        present: a multistep method starts at first order.
        """
        start = self.starts[step]
        denoised = self.denoised[start:].copy()
        denoised[0] = [denoised[0].sum(), *([0.0] * (HISTORY - 1))]
        return Plan(
            times=self.times[start:],
            alphas=self.alphas[start:],
            sigmas=self.sigmas[start:],
            next_alphas=self.next_alphas[start:],
            next_sigmas=self.next_sigmas[start:],
            state=self.state[start:],
            denoised=denoised,
            noise=self.noise[start:],
            starts=tuple(s - start for s in self.starts[step:]),
        )


@dataclass(frozen=True)
class _Row:
    """Coefficients of one evaluation, the level it starts from and the level it ends at."""

    time: float
    level: tuple[float, float]
    next_level: tuple[float, float]
    state: float
    denoised: tuple[float, ...]
    noise: float = 0.0
    correction: bool = False


def _deterministic(grid: Grid, i: int) -> _Row:
    """DDIM with eta 0 (Song et al., 2020, eq. 12); equally Euler on the probability-flow ODE.

    ``x' = alpha' D + sigma' (x - alpha D) / sigma``.
    """
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    keep = next_sigma / sigma
    return _row(grid, i, keep, (next_alpha - alpha * keep,))


def _ancestral(grid: Grid, i: int) -> _Row:
    """DDPM's posterior (Ho et al., 2020, eq. 7); equally Euler ancestral in k-diffusion.

    With ``r = (sigma'/alpha') / (sigma/alpha)`` a share ``r`` of the new noise is the old one and
    the rest is drawn: ``x' = alpha' D + sigma' (r eps + sqrt(1 - r^2) noise)``.
    """
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    ratio = next_sigma * alpha / (next_alpha * sigma)
    keep = next_sigma * ratio / sigma
    fresh = next_sigma * math.sqrt(max(0.0, 1 - ratio**2))
    return _row(grid, i, keep, (next_alpha - alpha * keep,), fresh)


def _multistep(grid: Grid, i: int) -> _Row:
    """DPM-Solver++ 2M, midpoint (Lu et al., 2022, algorithm 2); first order at both ends.

    ``exp(-h)`` is ``r`` of `_ancestral`; ``1 / r_0`` is this step's h over the previous one's.
    """
    steps = len(grid.times)
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    keep = next_sigma / sigma
    gain = next_alpha - alpha * keep
    if i == 0 or i == steps - 1:
        return _row(grid, i, keep, (gain,))
    h, previous_h = _log_ratio(grid, i), _log_ratio(grid, i - 1)
    extrapolation = 0.5 * h / previous_h
    return _row(grid, i, keep, (gain * (1 + extrapolation), -gain * extrapolation))


def _heun_correction(grid: Grid, i: int, *, straight: bool) -> _Row:
    """The second tick of Heun's method (Karras et al., 2022, algorithm 1, line 8).

    The Euler tick left ``x~`` at the next level and ``D`` in the history; averaging both slopes
    is ``x~ + w (D' - D)``. With ``r`` as the ratio of the two noise levels, ``w`` is
    ``alpha' (1 - r) / 2r`` along Karras' sigma, and ``(1 - r) / 2r`` along the time of a straight
    flow.
    """
    alpha, sigma = grid.alphas[i], grid.sigmas[i]
    next_alpha, next_sigma = grid.alphas[i + 1], grid.sigmas[i + 1]
    ratio = next_sigma / sigma if straight else next_sigma * alpha / (next_alpha * sigma)
    weight = (1 if straight else next_alpha) * (1 - ratio) / (2 * ratio)
    level = (next_alpha, next_sigma)
    return _Row(grid.times[i + 1], level, level, 1.0, (weight, -weight), correction=True)


def _heun(grid: Grid, *, straight: bool) -> list[_Row]:
    rows = []
    last = len(grid.times) - 1
    for i in range(last + 1):
        rows.append(_deterministic(grid, i))
        if i < last:
            rows.append(_heun_correction(grid, i, straight=straight))
    return rows


def _log_ratio(grid: Grid, i: int) -> float:
    """The step in half the log signal-to-noise ratio; infinite from pure noise."""
    before = grid.alphas[i] * grid.sigmas[i + 1]
    return math.inf if before == 0 else math.log(grid.alphas[i + 1] * grid.sigmas[i] / before)


def _row(grid: Grid, i: int, state: float, denoised: tuple[float, ...], noise: float = 0.0) -> _Row:
    level = (grid.alphas[i], grid.sigmas[i])
    next_level = (grid.alphas[i + 1], grid.sigmas[i + 1])
    return _Row(grid.times[i], level, next_level, state, denoised, noise)


def _each(rule: Callable[[Grid, int], _Row]) -> Callable[[Grid, bool], list[_Row]]:
    return lambda grid, straight: [rule(grid, i) for i in range(len(grid.times))]


def _trained_times(schedule: VariancePreserving, steps: int) -> Grid:
    return schedule.integer_grid(steps, "leading")


def _solver_times(schedule: VariancePreserving, steps: int) -> Grid:
    return schedule.solver_grid(steps, "linspace")


def _fractional_times(schedule: VariancePreserving, steps: int) -> Grid:
    return schedule.interpolated_grid(steps, "linspace")


_Rule = Callable[[Grid, bool], list[_Row]]
_Levels = Callable[[VariancePreserving, int], Grid]

_SAMPLERS: dict[str, tuple[_Rule, _Levels]] = {
    "ddpm": (_each(_ancestral), _trained_times),
    "ddim": (_each(_deterministic), _trained_times),
    "euler": (_each(_deterministic), _fractional_times),
    "euler_ancestral": (_each(_ancestral), _fractional_times),
    "heun": (lambda grid, straight: _heun(grid, straight=straight), _fractional_times),
    "dpmpp_2m": (_each(_multistep), _solver_times),
}

SAMPLERS: tuple[str, ...] = tuple(_SAMPLERS)
"""Names of the samplers, as requests spell them."""


@lru_cache(maxsize=1024)
def make_plan(sampler: str, schedule: Schedule, steps: int) -> Plan:
    """The plan of ``steps`` steps of a sampler on a schedule.

    Args:
        sampler: one of `SAMPLERS`.
        schedule: the model's noise schedule.
        steps: 1 to ``schedule.max_steps``; one less for multistep solvers between training times,
            which stop short of the last. Heun evaluates the network ``2 steps - 1`` times.

    Raises:
        ValueError: an unknown sampler or an impossible number of steps.
    """
    if sampler not in _SAMPLERS:
        raise ValueError(f"unknown sampler '{sampler}'; known are {', '.join(SAMPLERS)}")
    rule, levels = _SAMPLERS[sampler]
    straight = isinstance(schedule, Flow)
    most = schedule.max_steps - (levels is _solver_times and not straight)
    if not 1 <= steps <= most:
        raise ValueError(f"steps must be from 1 to {most} with {sampler}, got {steps}")
    grid = schedule.grid(steps) if isinstance(schedule, Flow) else levels(schedule, steps)
    return _plan(rule(grid, straight), grid.initial_scale)


@lru_cache(maxsize=64)
def make_inversion_plan(schedule: Schedule, steps: int) -> Plan:
    """The deterministic sampler run backwards: from an image to the noise it would come from.

    DDIM inversion (Song et al., 2020, section 4.3): accurate to first order in the step.
    """
    grid = schedule.inversion_grid(steps)
    return _plan([_deterministic(grid, i) for i in range(steps)], 1.0)


def _plan(rows: Sequence[_Row], initial_scale: float) -> Plan:
    denoised = np.zeros((len(rows), HISTORY))
    for index, row in enumerate(rows):
        denoised[index, : len(row.denoised)] = row.denoised
    return Plan(
        times=np.array([row.time for row in rows]),
        alphas=np.array([row.level[0] for row in rows]),
        sigmas=np.array([row.level[1] for row in rows]),
        next_alphas=np.array([row.next_level[0] for row in rows]),
        next_sigmas=np.array([row.next_level[1] for row in rows]),
        state=np.array([row.state for row in rows]),
        denoised=denoised,
        noise=np.array([row.noise for row in rows]),
        starts=tuple(i for i, row in enumerate(rows) if not row.correction),
        initial_scale=initial_scale,
    )


def advance(
    x: Tensor, denoised: Sequence[Tensor], noise: Tensor | None, coefficients: Tensor
) -> Tensor:
    """Apply one row per sample to a whole batch.

    Multiplications and additions are separate operations in a fixed order, so that a row's result
    does not depend on where in the batch it stands.

    Args:
        x: ``[n, ...]``, the states.
        denoised: the current denoised images, then the previous ones; each ``[n, ...]``.
        noise: ``[n, ...]`` of unit noise, zero where a row takes none; ``None`` when none does.
        coefficients: ``[n, 2 + len(denoised)]``: ``a, b_0, b_1, ..., c``.

    Returns:
        ``[n, ...]``, the states after the step.
    """
    columns = coefficients.to(x.dtype).unbind(1)
    shape = (-1,) + (1,) * (x.dim() - 1)
    result = columns[0].view(shape) * x
    for column, image in zip(columns[1:], denoised, strict=False):
        result = result + column.view(shape) * image
    if noise is not None:
        result = result + columns[-1].view(shape) * noise
    return result
