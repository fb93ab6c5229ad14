"""Noise levels that requests can ask for, against diffusers' and the published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

from services.core.errors import InvalidParameter
from services.sampling.samplers import make_plan, sigma_schedules_for
from services.sampling.schedule import Flow, VariancePreserving
from services.sampling.sigma_schedules import ALIGNED, aligned, spread
from tests.trajectories import (
    Walk,
    denoiser_of,
    make_scheduler,
    run,
    run_diffusers,
    start_of,
)

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear": STABLE,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
SOLVERS = ["dpmpp_2m", "dpmpp_2m_sde", "unipc"]
WITH_SIGMAS = ["euler", "heun", "lms", *SOLVERS]
NAMES = ["karras", "exponential", "beta"]
CASES = [
    (sampler, name, schedule) for sampler in WITH_SIGMAS for name in NAMES for schedule in SCHEDULES
]


def expected_end(case: tuple[str, str, str], steps: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    sampler, name, schedule = case
    config = {"beta_start": 0.0001, "beta_end": 0.02, **SCHEDULES[schedule]}
    scheduler = make_scheduler(sampler, config | {f"use_{name}_sigmas": True})
    scheduler.set_timesteps(steps)
    if sampler in SOLVERS:
        # Diffusers cuts most of these times short, at the mercy of rounding: 999 becomes 998.
        times = walk(case, steps).plan.times
        assert np.abs(times - scheduler.timesteps.numpy()).max() <= 1
        scheduler.timesteps = torch.from_numpy(times)
    return run_diffusers(scheduler, start_of(1), 2, monkeypatch)[0]


def walk(case: tuple[str, str, str], steps: int) -> Walk:
    sampler, name, schedule = case
    plan = make_plan(sampler, VariancePreserving(**SCHEDULES[schedule]), steps, name)  # type: ignore[arg-type]
    return Walk(plan, start_of(1)[0], 2)


def error(found: Any, expected: Any) -> float:
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("steps", [2, 13])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_sampler_on_other_levels_equals_diffusers(
    case: tuple[str, str, str], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = run([walk(case, steps)], denoiser_of())
    assert error(found, expected_end(case, steps, monkeypatch)) < 1e-5


def test_all_levels_mix_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Walk(make_plan("ddim", VariancePreserving(), 9), start_of(1)[0])
    *found, _ = run([*(walk(case, 8) for case in CASES), plain], denoiser_of())
    for case, state in zip(CASES, found, strict=True):
        assert error(state, expected_end(case, 8, monkeypatch)) < 1e-5, case


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        ("stable_diffusion", "StableDiffusionSigmas"),
        ("stable_diffusion_xl", "StableDiffusionXLSigmas"),
        ("stable_video_diffusion", "StableDiffusionVideoSigmas"),
    ],
)
def test_ten_aligned_steps_are_the_published_ones(model: Any, theirs: str) -> None:
    assert aligned(model, 10) == pytest.approx(AysSchedules[theirs][:-1])


@pytest.mark.parametrize("steps", [1, 5, 20, 37])
def test_other_counts_are_even_in_log_sigma_between_the_published(steps: int) -> None:
    levels = aligned("stable_diffusion", steps)
    published = np.log(ALIGNED["stable_diffusion"])
    assert len(levels) == steps
    assert levels[0] == pytest.approx(14.615)
    assert (np.diff(levels) < 0).all()
    for i, level in enumerate(levels):
        place = 10 * i / steps
        low = int(place)
        between = published[low] + (place - low) * (published[low + 1] - published[low])
        assert np.log(level) == pytest.approx(between)


def test_aligned_steps_go_the_way_of_diffusers_euler(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = make_scheduler("euler", STABLE)
    scheduler.set_timesteps(sigmas=AysSchedules["StableDiffusionSigmas"])
    expected = run_diffusers(scheduler, start_of(1), 2, monkeypatch)[0]
    plan = make_plan("euler", VariancePreserving(**STABLE), 10, "align_your_steps")
    (found,) = run([Walk(plan, start_of(1)[0])], denoiser_of())
    assert error(found, expected) < 1e-5
    told = make_plan("unipc", VariancePreserving(**STABLE), 10, "align_your_steps").times
    assert told == pytest.approx(AysSchedules["StableDiffusionTimesteps"], abs=1.5)


def test_levels_that_do_not_fit_are_refused() -> None:
    for sampler, schedule, name, words in (
        ("ddim", VariancePreserving(), "karras", "ddim visits times of its own.*use one of euler"),
        ("lcm", Flow(), "beta", "lcm visits times of its own"),
        ("euler", Flow(), "align_your_steps", "straight flow; use karras"),
        ("euler", VariancePreserving(), "align_your_steps", "manifest names none; use karras"),
    ):
        with pytest.raises(InvalidParameter, match=words) as caught:
            make_plan(sampler, schedule, 10, name)
        assert caught.value.param == "sigma_schedule"
    named = VariancePreserving(align_your_steps="stable_diffusion_xl")
    assert make_plan("euler", named, 10, "align_your_steps").grid.times[0] < 999
    assert "align_your_steps" in sigma_schedules_for(named)
    assert "align_your_steps" in sigma_schedules_for(VariancePreserving(**STABLE))
    assert sigma_schedules_for(Flow()) == ("karras", "exponential", "beta")


@pytest.mark.parametrize("name", NAMES)
def test_levels_run_from_end_to_end(name: Any) -> None:
    for steps in (2, 3, 50):
        levels = spread(name, 80.0, 0.002, steps)
        assert levels[[0, -1]] == pytest.approx([80.0, 0.002])
        assert (np.diff(levels) < 0).all()
    assert spread(name, 80.0, 0.002, 1).tolist() == [80.0]


@pytest.mark.parametrize("name", [None, *NAMES])
@pytest.mark.parametrize("schedule", [VariancePreserving(), Flow(), Flow(shift=3.0)])
def test_every_count_gives_finite_rows(schedule: Any, name: Any) -> None:
    for sampler in (*WITH_SIGMAS, "dpmpp_3m_sde", "euler_ancestral"):
        for steps in (1, 2, 3, 4, 17):
            plan = make_plan(sampler, schedule, steps, name)
            assert np.isfinite(plan.coefficients).all(), (sampler, steps)
            assert len(plan.starts) == steps


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
@pytest.mark.parametrize("name", [None, "karras"])
@pytest.mark.parametrize("steps", [5, 18])
def test_ending_at_the_least_trained_noise_equals_diffusers(
    sampler: str, name: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {**STABLE, "final_sigmas_type": "sigma_min"}
    karras = {"use_karras_sigmas": True} if name else {}
    scheduler = make_scheduler(sampler, {**config, **karras})
    scheduler.set_timesteps(steps)
    expected = run_diffusers(scheduler, start_of(1), 2, monkeypatch)[0]
    plan = make_plan(sampler, VariancePreserving(**config), steps, name)
    (found,) = run([Walk(plan, start_of(1)[0], 2)], denoiser_of())
    assert error(found, expected) < 1e-5
    assert plan.next_sigmas[-1] > 0


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
@pytest.mark.parametrize("offset", [0, 1])
def test_ending_at_time_0_equals_diffusers(
    sampler: str, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {**STABLE, "set_alpha_to_one": False, "steps_offset": offset}
    scheduler = make_scheduler(sampler, config)
    scheduler.set_timesteps(12)
    expected = run_diffusers(scheduler, start_of(1), 2, monkeypatch)[0]
    (found,) = run(
        [Walk(make_plan(sampler, VariancePreserving(**config), 12), start_of(1)[0])],
        denoiser_of(),
    )
    assert error(found, expected) < 1e-5


ZERO_SNR: dict[str, Any] = {**STABLE, "rescale_betas_zero_snr": True}


ANY_SPACING = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm"]


@pytest.mark.parametrize(
    ("sampler", "spacing"),
    # Evenly spaced, diffusers' DDPM and DDIM step to times between those that they visit.
    [(s, "trailing") for s in ("ddpm", "ddim", *ANY_SPACING)]
    + [(s, "linspace") for s in ANY_SPACING],
)
def test_zero_terminal_snr_equals_diffusers(
    sampler: str, spacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**ZERO_SNR, "timestep_spacing": spacing}
    scheduler = make_scheduler(sampler, {**config, "prediction_type": "v_prediction"})
    scheduler.set_timesteps(10)
    expected = run_diffusers(scheduler, start_of(1), 2, monkeypatch)[0]
    plan = make_plan(sampler, VariancePreserving(**config), 10)
    (found,) = run([Walk(plan, start_of(1)[0], 2)], denoiser_of("v_prediction"))
    assert error(found, expected) < 2e-5


def test_without_any_signal_everything_stays_finite() -> None:
    schedule = VariancePreserving(**ZERO_SNR, timestep_spacing="trailing")
    assert schedule.signal()[-1] == 0
    for sampler in ("ddpm", "ddim", "heun", "lms", "dpmpp_3m_sde", "lcm", "unipc"):
        plan = make_plan(sampler, schedule, 9)
        assert np.isfinite(plan.coefficients).all(), sampler
        (found,) = run([Walk(plan, start_of(1)[0], 2)], denoiser_of("v_prediction"))
        assert found.isfinite().all(), sampler
    for grid in (schedule.bound_grid(9), schedule.inversion_grid(9)):
        assert np.isfinite([*grid.times, *grid.alphas, *grid.sigmas]).all()
    with pytest.raises(InvalidParameter, match="without any signal, by which pndm would divide"):
        make_plan("pndm", schedule, 9)
