"""Log-densities by the probability-flow ODE, from a clean state to noise.

A state ``x = alpha x_0 + sigma noise`` whose noise is taken from clean to pure moves, in
distribution, along ``dx = alpha' E[x_0 | x] + sigma' E[noise | x]`` without any noise being drawn
(Song et al., 2021, eq. 13; for ``alpha + sigma = 1`` it is the velocity of Liu et al., 2022). The
log-density along a path changes by the divergence of that velocity (Chen et al., 2018, eq. 8; Song
et al., 2021, eq. 39)::

    log p(x at the start) = log N(x at the end; 0, I) + integral of the divergence

The divergence is estimated by Hutchinson's trace estimator, one probe for a whole path (Grathwohl
et al., 2019, section 3.1). The way from clean (0) to noise (1) is walked by a fixed-step
Runge-Kutta method of fourth order, one evaluation at a time, or by an adaptive one of torchdiffeq.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torchdiffeq  # type: ignore[import-untyped]  # ships no annotations
from torch import Tensor

from services.core.errors import EngineFailure, InvalidParameter, UnsupportedTask
from services.sampling.denoiser import PredictionType, denoised_coefficients
from services.sampling.schedule import (
    LEAST_SIGNAL,
    Array,
    Flow,
    Schedule,
    VarianceExploding,
    VariancePreserving,
)

RK4_NODES = (0.0, 0.5, 0.5, 1.0)
RK4_WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
RK4_STAGES = len(RK4_NODES)


@dataclass(frozen=True, slots=True)
class Point:
    """A place on the way from clean to noise; rates are per unit of the way."""

    time: float
    alpha: float
    sigma: float
    alpha_rate: float
    sigma_rate: float


class Slope(NamedTuple):
    """How states ``[n, ...]`` and their log-densities ``[n]`` change, per unit of the way."""

    velocity: Tensor
    divergence: Tensor


Field = Callable[[Tensor, float], Slope]
"""The slope of states ``[n, ...]`` at a place on the way in [0, 1]."""


def point_at(schedule: Schedule, way: float) -> Point:
    """Where a state stands, from the least noise of the schedule (0) to the most (1).

    The way lingers where there is little noise, for there the details of images arise. Variance
    preserving: even in the logarithm of ``sigma / alpha``, at fractional network times, as
    `VariancePreserving.bound_grid` visits them. Flow: even in the root of the time, which reaches
    pure noise.
    """
    if isinstance(schedule, Flow):
        return _straight(schedule, way)
    if isinstance(schedule, VarianceExploding):
        raise UnsupportedTask(
            "the likelihood along the probability flow is served for variance-preserving and flow "
            "schedules, not for variance that explodes"
        )
    return _variance_preserving(schedule, way)


def _variance_preserving(schedule: VariancePreserving, way: float) -> Point:
    ratios = _log_ratios(schedule)
    rate = float(ratios[-1] - ratios[0])
    ratio = float(ratios[0]) + way * rate
    alpha = 1 / math.sqrt(1 + math.exp(2 * ratio))
    sigma = math.exp(ratio) * alpha
    return Point(
        time=float(np.interp(ratio, ratios, np.arange(len(ratios)))),
        alpha=alpha,
        sigma=sigma,
        alpha_rate=-alpha * sigma**2 * rate,
        sigma_rate=sigma * alpha**2 * rate,
    )


def _straight(schedule: Flow, way: float) -> Point:
    first = math.sqrt(schedule.least_time)
    root = first + way * (1 - first)
    time, rate = root**2, 2 * root * (1 - first)
    return Point(
        time=time * schedule.time_scale,
        alpha=1 - time,
        sigma=time,
        alpha_rate=-rate,
        sigma_rate=rate,
    )


@lru_cache(maxsize=64)
def _log_ratios(schedule: VariancePreserving) -> Array:
    """``log(sigma / alpha)`` at every training time, finite also where there is no signal."""
    signal = np.maximum(schedule.signal(), LEAST_SIGNAL)
    return 0.5 * np.log((1 - signal) / signal)


def velocity_coefficients(prediction: PredictionType, point: Point) -> tuple[float, float]:
    """``(a, b)`` such that the velocity is ``a x + b output`` for a network's output.

    From ``alpha' D + sigma' (x - alpha D) / sigma`` with ``D = p x + q output``.
    """
    alphas = torch.tensor([point.alpha], dtype=torch.float64)
    sigmas = torch.tensor([point.sigma], dtype=torch.float64)
    p, q = (float(c) for c in denoised_coefficients(prediction, alphas, sigmas))
    noise_share = point.sigma_rate / point.sigma
    gain = point.alpha_rate - noise_share * point.alpha
    return noise_share + gain * p, gain * q


def rademacher(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Independent signs, +1 or -1 with equal chance: Hutchinson's probes of least variance."""
    return 2.0 * torch.randint(0, 2, tuple(shape), generator=generator).float() - 1.0


def slope(x: Tensor, output: Tensor, product: Tensor, probes: Tensor, a: float, b: float) -> Slope:
    """The velocity of states, and the estimate of its divergence.

    Of the divergence of ``a x + b output`` the first part is known, ``a`` in every dimension; the
    trace of the output's Jacobian J is estimated as ``v^T J v``.

    Args:
        x: ``[n, ...]`` states, float64.
        output: what the network predicts for them.
        product: ``v^T J`` of every state.
        probes: ``v`` of every state; expected ``v v^T`` is the identity.
        a: see `velocity_coefficients`.
        b: see `velocity_coefficients`.
    """
    trace = (product.double() * probes.double()).flatten(1).sum(1)
    return Slope(a * x + b * output.double(), a * x[0].numel() + b * trace)


def rk4_state(x: Tensor, slopes: Sequence[Slope], step: float) -> Tensor:
    """Where a step that began at ``x`` is evaluated next, after none to three evaluations."""
    if not slopes:
        return x
    return x + RK4_NODES[len(slopes)] * step * slopes[-1].velocity


def rk4_change(slopes: Sequence[Slope], step: float) -> Slope:
    """What a step of four evaluations changes: Runge and Kutta's classical method."""
    velocity, divergence = slopes[0].velocity * 0, slopes[0].divergence * 0
    for weight, found in zip(RK4_WEIGHTS, slopes, strict=True):
        velocity = velocity + weight * step * found.velocity
        divergence = divergence + weight * step * found.divergence
    return Slope(velocity, divergence)


class Budget:
    """Counts evaluations, and stops at a most.

    Attributes:
        spent: evaluations so far.
    """

    def __init__(self, most: int, spent: int = 0) -> None:
        self.most, self.spent = most, spent

    def take(self) -> None:
        """Count one more.

        Raises:
            InvalidParameter: there are no more to take.
        """
        if self.spent >= self.most:
            raise InvalidParameter(
                f"dopri5 needs more than {self.most} network evaluations at this tolerance; raise "
                "tolerance, or use solver rk4 with the steps you can afford",
                param="tolerance",
            )
        self.spent += 1


def solve_adaptively(
    field: Field, x: Tensor, span: tuple[float, float], *, tolerance: float, budget: Budget
) -> Slope:
    """The change over a part of the way by Dormand and Prince's method with adaptive steps.

    Args:
        field: the ODE.
        x: ``[n, ...]`` states, float64. Their steps are chosen together.
        span: where the part begins and ends.
        tolerance: relative and absolute, of states and of log-densities, per step.
        budget: of evaluations of ``field``.

    Raises:
        InvalidParameter: the budget does not suffice.
        EngineFailure: steps became too small to go on.
    """

    def derivative(way: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        budget.take()
        found = field(state[0], float(way))
        return found.velocity, found.divergence

    zeros = torch.zeros(len(x), dtype=torch.float64)
    times = torch.tensor(span, dtype=torch.float64)
    try:
        states, changes = torchdiffeq.odeint(
            derivative, (x, zeros), times, rtol=tolerance, atol=tolerance, method="dopri5"
        )
    except AssertionError as error:
        raise EngineFailure(f"the adaptive ODE solver cannot go on: {error}") from error
    return Slope(states[-1] - x, changes[-1])
