"""Noise schedules against diffusers' and against their own definitions."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from services.core.errors import InvalidParameter
from services.sampling.samplers import SAMPLERS, make_plan, samplers_for
from services.sampling.schedule import (
    Flow,
    Grid,
    Schedule,
    VarianceExploding,
    VariancePreserving,
)

CONFIGS: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"num_train_timesteps": 100, "beta_start": 0.001, "beta_end": 0.2},
    {"beta_schedule": "sigmoid"},
    {"num_train_timesteps": 3, "trained_betas": (0.1, 0.2, 0.4)},
]
ZERO_SNR = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}


def every_grid(schedule: VariancePreserving | Flow) -> dict[str, Grid]:
    grids = {"bound": schedule.bound_grid(9), "inversion": schedule.inversion_grid(9)}
    if isinstance(schedule, Flow):
        return grids | {"sampling": schedule.grid(9)}
    for spacing in ("leading", "linspace", "trailing"):
        grids[f"integer {spacing}"] = schedule.integer_grid(9, spacing)
        grids[f"solver {spacing}"] = schedule.solver_grid(9, spacing)
        grids[f"interpolated {spacing}"] = schedule.interpolated_grid(9, spacing)
    return grids


@pytest.mark.parametrize("config", CONFIGS)
def test_the_signal_equals_diffusers(config: dict[str, Any]) -> None:
    expected = diffusers.DDPMScheduler(**config).alphas_cumprod.numpy()
    found = VariancePreserving.model_validate(config).signal()
    assert found == pytest.approx(expected, rel=3e-6, abs=0)


@pytest.mark.parametrize("config", [ZERO_SNR, {"rescale_betas_zero_snr": True}])
def test_a_schedule_without_signal_at_its_end_equals_diffusers(config: dict[str, Any]) -> None:
    expected = diffusers.DDPMScheduler(**config).alphas_cumprod.numpy()
    schedule = VariancePreserving.model_validate(config)
    found = schedule.signal()
    assert found == pytest.approx(expected, rel=2e-4, abs=1e-9)
    assert found[-1] == 0
    theirs = diffusers.EulerDiscreteScheduler(beta_start=0.0001, beta_end=0.02, **config)
    assert schedule.ratios()[-1] == pytest.approx(float(theirs.sigmas[0]))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_visited_times_equal_diffusers(spacing: Any, steps: int) -> None:
    schedule = VariancePreserving(timestep_spacing=spacing)
    theirs = diffusers.DDIMScheduler(timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    assert schedule.integer_grid(steps, "leading").times.tolist() == theirs.timesteps.tolist()
    solver = diffusers.DPMSolverMultistepScheduler(timestep_spacing=spacing)
    solver.set_timesteps(steps)
    assert schedule.solver_grid(steps, "leading").times.tolist() == solver.timesteps.tolist()
    euler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing)
    euler.set_timesteps(steps)
    grid = schedule.interpolated_grid(steps, "leading")
    assert grid.times == pytest.approx(euler.timesteps.numpy())
    ratios = grid.sigmas / grid.alphas
    assert ratios == pytest.approx(euler.sigmas.numpy(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_level_preserves_variance(config: dict[str, Any]) -> None:
    for name, grid in every_grid(VariancePreserving.model_validate(config)).items():
        assert grid.alphas**2 + grid.sigmas**2 == pytest.approx(1), name


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_every_level_of_a_flow_lies_on_the_straight_line(shift: float) -> None:
    for name, grid in every_grid(Flow(shift=shift)).items():
        assert grid.alphas + grid.sigmas == pytest.approx(1), name


@pytest.mark.parametrize("schedule", [VariancePreserving(), Flow(), Flow(shift=3)])
def test_grids_go_from_noise_to_image_and_the_inversion_back(
    schedule: VariancePreserving | Flow,
) -> None:
    for name, grid in every_grid(schedule).items():
        assert len(grid.alphas) == len(grid.sigmas) == len(grid.times) + 1
        direction = 1 if name == "inversion" else -1
        assert (direction * np.diff(grid.sigmas) > 0).all(), name
        if name not in ("inversion", "bound"):
            assert (grid.alphas[-1], grid.sigmas[-1]) == (1, 0), name


def test_the_levels_of_a_time_are_the_training_levels_of_that_time() -> None:
    schedule = VariancePreserving()
    signal = schedule.signal()
    for name, grid in every_grid(schedule).items():
        if name.startswith("interpolated") or name == "bound":
            continue
        expected = np.sqrt(signal[grid.times.astype(int)])
        assert grid.alphas[:-1] == pytest.approx(expected), name


def test_a_flows_network_is_told_its_noise_level_on_its_own_scale() -> None:
    grid = Flow(time_scale=1000).grid(4)
    assert grid.times == pytest.approx([1000, 750, 500, 250])
    assert grid.sigmas == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_a_shift_equals_diffusers() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=np.linspace(1, 0, 9)[:-1])
    assert Flow(shift=3.0).grid(8).sigmas == pytest.approx(theirs.sigmas.numpy(), abs=1e-6)


def test_the_bound_ends_at_the_least_noise_that_was_trained_on() -> None:
    signal = VariancePreserving().signal()
    for steps in (2, 999):
        grid = VariancePreserving().bound_grid(steps)
        assert grid.alphas[-1] == pytest.approx(np.sqrt(signal[0]))
        assert grid.alphas[0] == pytest.approx(np.sqrt(signal[-1]))
        assert grid.times[0] == 999
        assert len(set(grid.times)) == steps
        gains = np.diff(np.log(grid.alphas / grid.sigmas))
        assert gains == pytest.approx(gains[0])
    flow = Flow(least_time=0.02).bound_grid(16)
    assert flow.alphas[0] == 0
    assert flow.sigmas[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing", None])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_number_of_steps_gives_a_plan_of_numbers_or_a_refusal(
    sampler: str, spacing: Any
) -> None:
    """The extremes too: as many steps as there are training times, and one."""
    for schedule in (
        VariancePreserving(num_train_timesteps=30, timestep_spacing=spacing),
        Flow(),
        VarianceExploding(langevin_steps=2),
    ):
        for steps in range(1, 31):
            try:
                plan = make_plan(sampler, schedule, steps)
            except InvalidParameter as refusal:
                solver = sampler in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc")
                assert (solver and steps == 30) or sampler not in samplers_for(schedule), refusal  # noqa: PT017
                continue
            assert np.isfinite([*plan.coefficients.ravel(), *plan.times]).all(), (steps, schedule)
            assert len(plan.starts) == steps


def test_the_kind_of_a_schedule_is_read_from_its_type() -> None:
    read = TypeAdapter[Schedule](Schedule).validate_python
    assert isinstance(read({"type": "flow", "shift": 2}), Flow)
    assert isinstance(read({"type": "variance_preserving"}), VariancePreserving)
    for bad in (
        {"type": "cosine"},
        {"type": "flow", "shift": 0},
        {"type": "flow", "beta_start": 1},
        {"type": "variance_preserving", "num_train_timesteps": 1},
        {"type": "variance_exploding", "sigma_min": 2, "sigma_max": 1},
        {"type": "variance_exploding", "sigma_min": 0.01, "langevin_step_size": 0.1},
        {"type": "variance_preserving", "trained_betas": [0.1, 0.2]},
        {"type": "variance_preserving", "num_train_timesteps": 2, "trained_betas": [0.1, 1.5]},
    ):
        with pytest.raises(ValidationError):
            read(bad)


@pytest.mark.parametrize("told", ["sigma", "level"])
def test_exploding_levels_are_those_of_diffusers_score_sde(told: Any) -> None:
    theirs = diffusers.ScoreSdeVeScheduler(num_train_timesteps=40, sigma_min=0.02, sigma_max=30.0)
    theirs.set_sigmas(40, sampling_eps=1e-5)
    schedule = VarianceExploding(sigma_min=0.02, sigma_max=30.0, num_levels=40, told=told)
    grid = schedule.grid(40)
    assert grid.sigmas[:-1][::-1] == pytest.approx(theirs.discrete_sigmas.numpy(), rel=1e-4)
    assert grid.sigmas[-1] == 0
    assert (grid.alphas == 1).all()
    assert grid.initial_scale == 30
    expected = grid.sigmas[:-1] if told == "sigma" else np.arange(40)
    assert grid.times == pytest.approx(expected)
    assert schedule.grid(5).times[-1] == (pytest.approx(0.02) if told == "sigma" else 39)
