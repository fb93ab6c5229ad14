"""Every sampler against diffusers' scheduler of that name, over whole trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.errors import InvalidParameter
from services.sampling.plan import HISTORY
from services.sampling.samplers import make_plan, samplers_for
from services.sampling.schedule import Flow, Grid, VariancePreserving
from tests.trajectories import (
    DIFFUSERS,
    Noise,
    Walk,
    denoiser_of,
    make_scheduler,
    network,
    run,
    run_diffusers,
    start_of,
)

SAMPLERS = samplers_for(VariancePreserving())
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
STEPS = (2, 7, 20, 50)


def fitting(
    *schedules: VariancePreserving | Flow, among: Sequence[str] = SAMPLERS
) -> list[tuple[str, VariancePreserving | Flow]]:
    """Every sampler with every schedule that it fits."""
    return [(s, schedule) for schedule in schedules for s in among if s in samplers_for(schedule)]


def third_order_sde(plan_grid: Grid, start: Tensor, seed: int) -> Tensor:
    """k-diffusion's ``sample_dpmpp_3m_sde`` with eta 1, line by line; diffusers has it not right.

    (Its third-order term takes 0.5 away twice: it does not vanish with the step.)
    """
    sigmas = plan_grid.sigmas / plan_grid.alphas
    noise = Noise(seed)
    x = start / plan_grid.alphas[0]
    denoised_1 = denoised_2 = x
    h_1 = h_2 = None
    for i, time in enumerate(plan_grid.times):
        scaled = x / math.sqrt(1 + sigmas[i] ** 2)
        denoised = x - sigmas[i] * network(scaled, torch.tensor([time]))
        if sigmas[i + 1] == 0:
            return denoised
        h = math.log(sigmas[i] / sigmas[i + 1])
        h_eta = 2 * h
        x = math.exp(-h_eta) * x - math.expm1(-h_eta) * denoised
        phi_2 = math.expm1(-h_eta) / h_eta + 1
        phi_3 = phi_2 / h_eta - 0.5
        if h_2 is not None and h_1 is not None:
            r0, r1 = h_1 / h, h_2 / h
            d1_0 = (denoised - denoised_1) / r0
            d1_1 = (denoised_1 - denoised_2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            d2 = (d1_0 - d1_1) / (r0 + r1)
            x = x + phi_2 * d1 - phi_3 * d2
        elif h_1 is not None:
            x = x + phi_2 * (denoised - denoised_1) / (h_1 / h)
        x = x + noise() * sigmas[i + 1] * math.sqrt(-math.expm1(-2 * h))
        denoised_1, denoised_2 = denoised, denoised_1
        h_1, h_2 = h, h_1
    return x


def predicted_and_corrected(grid: Grid, start: Tensor, seed: int) -> Tensor:
    """Song et al. (2021), algorithm 1, on the variance-exploding state ``x / alpha``.

    Predictor: eq. 47 (ancestral); corrector: one Langevin step of size ``2 (0.16 sigma)^2``, which
    is the same whichever of the two states it is taken on.
    """
    sigmas = grid.sigmas / grid.alphas
    noise = Noise(seed)
    x = start / grid.alphas[0]

    def score(x: Tensor, i: int) -> Tensor:
        scaled = x / math.sqrt(1 + sigmas[i] ** 2)
        return -network(scaled, torch.tensor([grid.times[i]])) / sigmas[i]

    for i in range(len(grid.times)):
        fall = sigmas[i] ** 2 - sigmas[i + 1] ** 2
        x = x + fall * score(x, i)
        if sigmas[i + 1] == 0:
            return x
        x = x + math.sqrt(fall) * sigmas[i + 1] / sigmas[i] * noise()
        size = 2 * (0.16 * sigmas[i + 1]) ** 2
        x = x + size * score(x, i + 1) + math.sqrt(2 * size) * noise()
    return x


def reference(
    sampler: str, config: dict[str, Any], steps: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    """The end of the trajectory that starts from `start_of` a seed, with noise of the next one."""
    if sampler == "dpmpp_3m_sde":
        grid = VariancePreserving.model_validate(config).solver_grid(steps, "linspace")
        return third_order_sde(grid, start_of(seed), seed + 1)[0]
    if sampler == "predictor_corrector":
        grid = VariancePreserving.model_validate(config).interpolated_grid(steps, "linspace")
        return predicted_and_corrected(grid, start_of(seed) * grid.initial_scale, seed + 1)[0]
    scheduler = make_scheduler(sampler, {"beta_start": 0.0001, "beta_end": 0.02, **config})
    scheduler.set_timesteps(steps)
    return run_diffusers(scheduler, start_of(seed), seed + 1, monkeypatch)[0]


def walk(sampler: str, config: dict[str, Any], steps: int, seed: int) -> Walk:
    plan = make_plan(sampler, VariancePreserving.model_validate(config), steps)
    return Walk(plan, start_of(seed)[0], seed + 1)


def close(found: Tensor, expected: Tensor) -> bool:
    """Within 1e-5 of the largest value: diffusers holds its sigmas in float32."""
    return float((found - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equals_diffusers(
    sampler: str, schedule: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SCHEDULES[schedule]
    expected = reference(sampler, config, steps, 1, monkeypatch)
    (found,) = run([walk(sampler, config, steps, 1)], denoiser_of())
    assert close(found, expected), (found - expected).abs().max()


def test_equals_diffusers_beside_other_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(s, c, n) for s in SAMPLERS for c in SCHEDULES for n in (5, 12)]
    expected = [
        reference(s, SCHEDULES[c], n, 3 * i, monkeypatch) for i, (s, c, n) in enumerate(cases)
    ]
    walks = [walk(s, SCHEDULES[c], n, 3 * i) for i, (s, c, n) in enumerate(cases)]
    for case, found, value in zip(cases, run(walks, denoiser_of()), expected, strict=True):
        assert close(found, value), case


def test_company_leaves_no_trace_in_a_row() -> None:
    cases = [(s, SCHEDULES[c], n) for s in SAMPLERS for c in SCHEDULES for n in (3, 8)]
    mixed = run([walk(*case, seed=i) for i, case in enumerate(cases)], denoiser_of())
    for i, (case, found) in enumerate(zip(cases, mixed, strict=True)):
        (alone,) = run([walk(*case, seed=i)], denoiser_of())
        assert torch.equal(found, alone), case


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sampler", ["euler", "lms", "unipc", "dpmpp_2m_sde"])
def test_a_spacing_equals_diffusers(
    sampler: str, spacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**SCHEDULES["scaled_linear"], "timestep_spacing": spacing, "steps_offset": 1}
    expected = reference(sampler, config, 8, 4, monkeypatch)
    (found,) = run([walk(sampler, config, 8, 4)], denoiser_of())
    assert close(found, expected)


@pytest.mark.parametrize(("sampler", "schedule"), fitting(VariancePreserving(), Flow()))
def test_a_perfect_denoiser_reaches_its_image(
    sampler: str, schedule: VariancePreserving | Flow
) -> None:
    image = start_of(7)[0]
    for steps in (1, 2, 9):
        way = Walk(make_plan(sampler, schedule, steps), start_of(8)[0])
        (found,) = run([way], lambda x, *_: image.expand_as(x))
        assert torch.allclose(found, image, atol=1e-5), steps


FIRST_ORDER = ["ddim", "euler"]
ODE = [*FIRST_ORDER, "heun", "dpmpp_2m", "unipc", "lms", "pndm"]


@pytest.mark.parametrize(
    ("sampler", "schedule"), fitting(VariancePreserving(), Flow(), Flow(shift=3.0), among=ODE)
)
def test_deterministic_samplers_converge_to_the_exact_ode(
    sampler: str, schedule: VariancePreserving | Flow
) -> None:
    """For data N(m, s^2) the ODE has a closed form: quantiles are kept."""
    mean, std = 0.7, 0.3
    start = start_of(3)[0]

    def denoise(x: Tensor, _: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> Tensor:
        alpha, sigma = float(alphas[0]), float(sigmas[0])
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    errors = []
    for steps in (10, 80):
        plan = make_plan(sampler, schedule, steps)
        alpha, sigma = plan.alphas[0], plan.sigmas[0]
        x = start * plan.initial_scale
        exact = mean + std * (x - alpha * mean) / math.hypot(alpha * std, sigma)
        (found,) = run([Walk(plan, start)], denoise)
        errors.append(float((found - exact).abs().max()))
    assert errors[1] < errors[0] / 4
    assert errors[1] < (0.05 if sampler in FIRST_ORDER else 0.01)


def test_higher_orders_are_closer_at_the_same_number_of_evaluations() -> None:
    mean, std, start = 0.7, 0.3, start_of(3)[0]

    def denoise(x: Tensor, _: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> Tensor:
        alpha, sigma = float(alphas[0]), float(sigmas[0])
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    errors = {}
    for sampler in ("euler", "dpmpp_2m", "unipc", "lms"):
        (found,) = run([Walk(make_plan(sampler, Flow(), 40), start)], denoise)
        errors[sampler] = float((found - (mean + std * start)).abs().max())
    assert errors["dpmpp_2m"] < errors["euler"] / 3
    assert errors["unipc"] < errors["dpmpp_2m"]
    assert errors["lms"] < errors["euler"] / 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_later_start_takes_nothing_from_a_missing_past(sampler: str) -> None:
    steps, left = 20, 12
    plan = make_plan(sampler, VariancePreserving(), steps)
    later = plan.from_step(steps - left)
    assert len(later.starts) == left
    assert later.initial_scale == 1
    assert later.times[0] == plan.times[plan.starts[steps - left]]
    assert later.next_sigmas[-1] == plan.next_sigmas[-1]
    for i in range(min(len(later), HISTORY)):
        assert not later.denoised[i, i + 1 :].any()
        assert not later.coefficients[i, 1 + HISTORY + i : -1].any()
    assert later.memory == plan.memory
    image = start_of(7)[0]
    (found,) = run([Walk(later, start_of(2)[0])], lambda x, *_: image.expand_as(x))
    assert torch.allclose(found, image, atol=1e-5)


def test_what_a_sampler_costs() -> None:
    counts = {s: len(make_plan(s, VariancePreserving(), 10)) for s in SAMPLERS}
    assert counts == dict.fromkeys(SAMPLERS, 10) | {
        "heun": 19,
        "predictor_corrector": 19,
        "pndm": 11,
    }
    memories = {s: make_plan(s, VariancePreserving(), 10).memory for s in SAMPLERS}
    expected = {"heun": 1, "dpmpp_2m": 1, "dpmpp_2m_sde": 1, "dpmpp_3m_sde": 2, "unipc": 2}
    assert memories == dict.fromkeys(SAMPLERS, 0) | expected | {"lms": 3, "pndm": 4}


def test_unknown_samplers_and_impossible_steps_are_refused() -> None:
    for sampler, schedule, steps, param, words in (
        ("magic", Flow(), 10, "sampler", "unknown sampler 'magic'; known are ddpm"),
        ("pndm", Flow(), 10, "sampler", "by which pndm would divide; use one of ddpm, ddim"),
        ("euler", VariancePreserving(), 1001, "steps", "from 1 to 1000"),
        ("unipc", VariancePreserving(), 1000, "steps", "from 1 to 999 with unipc, got 1000"),
        ("lcm", VariancePreserving(), 51, "steps", "from 1 to 50 with lcm"),
        ("euler", Flow(), 1001, "steps", "from 1 to 1000"),
        ("annealed_langevin", Flow(), 5, "sampler", "for variance that explodes; use one of ddpm"),
    ):
        with pytest.raises(InvalidParameter, match=words) as caught:
            make_plan(sampler, schedule, steps)
        assert caught.value.param == param


def test_every_sampler_that_diffusers_has_is_compared_with_it() -> None:
    assert set(SAMPLERS) - set(DIFFUSERS) == {"dpmpp_3m_sde", "predictor_corrector"}
