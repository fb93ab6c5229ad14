"""The probability-flow ODE over data whose density is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from services.core.errors import EngineFailure, InvalidParameter
from services.sampling.bounds import standard_normal_log_density
from services.sampling.denoiser import PredictionType
from services.sampling.ode import (
    RK4_NODES,
    RK4_STAGES,
    Budget,
    Slope,
    point_at,
    rademacher,
    rk4_change,
    rk4_state,
    slope,
    solve_adaptively,
    velocity_coefficients,
)
from services.sampling.schedule import Flow, Schedule, VariancePreserving
from tests.gaussian_data import SCHEDULES
from tests.mixtures import THREE, Mixture

EVERY_SCHEDULE = pytest.mark.parametrize("name", SCHEDULES)
PREDICTIONS: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample", "flow")
BOTH_DIAGONALS = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
"""Two probes in the plane whose mean of ``v v^T`` is the identity: the trace is exact."""


MIXTURE = Mixture(
    centers=torch.tensor([[0.8, 0.0], [-0.5, 0.6], [-0.3, -0.9]], dtype=torch.float64),
    weights=torch.full((3,), 1 / 3, dtype=torch.float64),
    std=0.25,
)
POINTS = torch.tensor([[0.7, 0.1], [-0.4, 0.5], [0.1, -0.1], [-0.2, -1.3]], dtype=torch.float64)


def predicted(
    prediction: PredictionType, x: Tensor, clean: Tensor, alpha: float, sigma: float
) -> Tensor:
    noise = (x - alpha * clean) / sigma
    return {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * clean,
        "sample": clean,
        "flow": noise - clean,
    }[prediction]


@dataclass
class MixtureField:
    """The ODE of a mixture, its Jacobian by automatic differentiation."""

    schedule: Schedule
    prediction: PredictionType
    probes: Tensor
    mixture: Mixture = MIXTURE

    def __call__(self, x: Tensor, way: float) -> Slope:
        point = point_at(self.schedule, way)
        state = x.detach().clone().requires_grad_()
        clean = self.mixture.denoise(state, point.alpha, point.sigma)
        output = predicted(self.prediction, state, clean, point.alpha, point.sigma)
        (product,) = torch.autograd.grad(output, state, self.probes)
        coefficients = velocity_coefficients(self.prediction, point)
        return slope(x, output.detach(), product, self.probes, *coefficients)


def by_rk4(field: MixtureField, x: Tensor, steps: int) -> Tensor:
    """The estimated log-density of states at the beginning of the way."""
    log_det = torch.zeros(len(x), dtype=torch.float64)
    for i in range(steps):
        slopes: list[Slope] = []
        for k in range(RK4_STAGES):
            at = (i + RK4_NODES[k]) / steps
            slopes.append(field(rk4_state(x, slopes, 1 / steps), at))
        change = rk4_change(slopes, 1 / steps)
        x, log_det = x + change.velocity, log_det + change.divergence
    return at_the_end(x, field.schedule, field.mixture) + log_det


def at_the_end(x: Tensor, schedule: Schedule, mixture: Mixture = MIXTURE) -> Tensor:
    """Of pure noise the standard normal density; of a rest of signal, the mixture's own."""
    last = point_at(schedule, 1.0)
    return mixture.log_density(x, last.alpha, last.sigma)


def exactly_traced(schedule: Schedule, prediction: PredictionType, steps: int) -> Tensor:
    """The log-density of every point with both probes: their mean has the exact trace."""
    x = POINTS.repeat_interleave(2, 0)
    field = MixtureField(schedule, prediction, BOTH_DIAGONALS.repeat(len(POINTS), 1).double())
    return by_rk4(field, x, steps).view(-1, 2).mean(1)


def expected(schedule: Schedule) -> Tensor:
    first = point_at(schedule, 0.0)
    return MIXTURE.log_density(POINTS, first.alpha, first.sigma)


@EVERY_SCHEDULE
def test_the_way_goes_from_the_least_noise_to_the_most_at_its_own_rates(name: str) -> None:
    schedule, _ = SCHEDULES[name]
    grid = schedule.bound_grid(4)
    first, last = point_at(schedule, 0.0), point_at(schedule, 1.0)
    assert (first.alpha, first.sigma) == pytest.approx((grid.alphas[-1], grid.sigmas[-1]))
    assert (last.alpha, last.sigma) == pytest.approx((grid.alphas[0], grid.sigmas[0]))
    assert last.time == pytest.approx(grid.times[0])
    for way in (0.1, 0.5, 0.93):
        before, here, after = (point_at(schedule, way + d) for d in (-1e-5, 0.0, 1e-5))
        assert before.time < here.time < after.time
        assert here.alpha_rate == pytest.approx((after.alpha - before.alpha) / 2e-5, rel=1e-5)
        assert here.sigma_rate == pytest.approx((after.sigma - before.sigma) / 2e-5, rel=1e-5)


def test_a_schedule_without_a_last_signal_has_a_finite_way() -> None:
    schedule = VariancePreserving(rescale_betas_zero_snr=True)
    for way in (0.0, 0.5, 0.999, 1.0):
        point = point_at(schedule, way)
        assert point.alpha > 0
        a, b = velocity_coefficients("v_prediction", point)
        assert math.isfinite(a)
        assert math.isfinite(b)


@EVERY_SCHEDULE
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_gaussian_data_widen_as_their_states_do(name: str, prediction: PredictionType) -> None:
    """Of ``N(0, s^2)`` data the velocity is ``(d log of the state's deviation) x``."""
    schedule, _ = SCHEDULES[name]
    std, x = 0.4, torch.linspace(-2, 2, 5, dtype=torch.float64)
    for way in (0.0, 0.3, 0.8):
        point = point_at(schedule, way)
        variance = point.alpha**2 * std**2 + point.sigma**2
        clean = point.alpha * std**2 / variance * x
        output = predicted(prediction, x, clean, point.alpha, point.sigma)
        a, b = velocity_coefficients(prediction, point)
        growth = point.alpha * point.alpha_rate * std**2 + point.sigma * point.sigma_rate
        assert torch.allclose(a * x + b * output, growth / variance * x, rtol=1e-9, atol=1e-12)


def test_a_straight_flow_ends_in_the_standard_normal() -> None:
    ended = at_the_end(POINTS, Flow())
    assert torch.allclose(ended, standard_normal_log_density(POINTS), atol=1e-12)


@EVERY_SCHEDULE
def test_the_density_of_a_mixture_is_exact_when_the_trace_is(name: str) -> None:
    schedule, prediction = SCHEDULES[name]
    found = exactly_traced(schedule, prediction, 64)
    assert torch.allclose(found, expected(schedule), atol=1e-3)


@pytest.mark.parametrize("prediction", ["v_prediction", "flow", "sample"])
def test_every_parameterisation_gives_the_same_density(prediction: PredictionType) -> None:
    found = exactly_traced(Flow(), prediction, 32)
    assert torch.allclose(found, exactly_traced(Flow(), "flow", 32), atol=1e-9)


def test_one_probe_is_right_on_average() -> None:
    count, generator = 400, torch.Generator().manual_seed(0)
    x = POINTS[2:3].expand(count, 2)
    field = MixtureField(Flow(), "flow", rademacher((count, 2), generator).double())
    found = by_rk4(field, x, 32)
    error = float(found.std()) / math.sqrt(count)
    assert float(found.std()) > 0.01
    assert float(found.mean()) == pytest.approx(float(expected(Flow())[2]), abs=2 * error + 1e-3)


@pytest.mark.slow
@EVERY_SCHEDULE
def test_the_estimate_of_ten_thousand_draws_lies_within_two_standard_errors(name: str) -> None:
    """One probe each, of the mixture that every sampler draws from; the truth is closed form."""
    count, generator = 10_000, torch.Generator().manual_seed(5)
    schedule, prediction = SCHEDULES[name]
    first = point_at(schedule, 0.0)
    noise = torch.randn((count, 2), generator=generator, dtype=torch.float64)
    x = first.alpha * THREE.draws(count, seed=6) + first.sigma * noise
    probes = rademacher((count, 2), generator).double()
    found = by_rk4(MixtureField(schedule, prediction, probes, THREE), x, 48)
    wrong = found - THREE.log_density(x, first.alpha, first.sigma)
    assert abs(float(wrong.mean())) < 2 * float(wrong.std()) / math.sqrt(count)


def test_runge_and_kuttas_method_is_of_fourth_order() -> None:
    truth = expected(Flow())
    errors = [
        float((exactly_traced(Flow(), "flow", steps) - truth).abs().max()) for steps in (16, 32, 64)
    ]
    for coarse, fine in pairwise(errors):
        assert 3.3 < math.log2(coarse / fine) < 5.2


def test_adaptive_steps_agree_with_fixed_ones() -> None:
    x = POINTS.repeat_interleave(2, 0)
    field = MixtureField(Flow(), "flow", BOTH_DIAGONALS.repeat(len(POINTS), 1).double())
    found = {}
    for tolerance in (1e-3, 1e-6):
        state, log_det, budget = x, torch.zeros(len(x), dtype=torch.float64), Budget(5000)
        for part in range(4):
            change = solve_adaptively(
                field, state, (part / 4, (part + 1) / 4), tolerance=tolerance, budget=budget
            )
            state, log_det = state + change.velocity, log_det + change.divergence
        found[tolerance] = budget.spent
        error = at_the_end(state, Flow()) + log_det - by_rk4(field, x, 128)
        assert float(error.abs().max()) < 100 * tolerance
    assert found[1e-6] > found[1e-3] > 4 * 6


def test_an_adaptive_solution_stops_at_its_budget() -> None:
    field = MixtureField(Flow(), "flow", torch.ones(len(POINTS), 2, dtype=torch.float64))
    budget = Budget(9)
    with pytest.raises(InvalidParameter, match="more than 9 network evaluations") as caught:
        solve_adaptively(field, POINTS, (0.0, 1.0), tolerance=1e-5, budget=budget)
    assert caught.value.param == "tolerance"
    assert budget.spent == 9


def test_an_ode_that_explodes_is_an_engines_failure() -> None:
    def explode(x: Tensor, way: float) -> Slope:
        return Slope(x * math.inf if way > 0.5 else x, x.sum(1))

    with pytest.raises(EngineFailure, match="cannot go on"):
        solve_adaptively(explode, POINTS, (0.0, 1.0), tolerance=1e-3, budget=Budget(5000))


def test_probes_are_independent_signs() -> None:
    probes = rademacher((4000, 3), torch.Generator().manual_seed(1))
    assert set(probes.flatten().tolist()) == {-1.0, 1.0}
    assert torch.allclose(probes.T @ probes / 4000, torch.eye(3), atol=0.06)
