"""A diffusers scheduler's configuration is followed, or refused, or its difference is named."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest

from model_store.importers.schedules import SAMPLERS, import_flow, import_schedule
from services.core.errors import InvalidManifest
from services.sampling import samplers
from services.sampling.samplers import make_plan
from services.sampling.schedule import Flow, VariancePreserving


def imported(scheduler: Any) -> Any:
    return import_schedule(type(scheduler).__name__, dict(scheduler.config))


def test_every_scheduler_has_a_sampler_that_is_served() -> None:
    assert set(SAMPLERS.values()) <= set(samplers.SAMPLERS)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {"trained_betas": [0.01] * 20, "num_train_timesteps": 20},
    ],
)
def test_the_signal_is_the_schedulers_own(settings: dict[str, Any]) -> None:
    scheduler = diffusers.DDIMScheduler(**settings)
    schedule = VariancePreserving.model_validate(imported(scheduler).schedule)
    np.testing.assert_allclose(
        schedule.signal(), scheduler.alphas_cumprod.numpy(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_what_the_network_predicts_is_followed(prediction: str) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=prediction)
    assert imported(scheduler).prediction_type == prediction


def test_clipping_is_followed_where_the_scheduler_clips() -> None:
    assert imported(diffusers.DDPMScheduler(clip_sample_range=2.0)).clip_sample == 2.0
    assert imported(diffusers.DDIMScheduler(clip_sample=False)).clip_sample is None
    assert imported(diffusers.EulerDiscreteScheduler()).clip_sample is None


@pytest.mark.parametrize("levels", ["karras", "exponential", "beta"])
@pytest.mark.parametrize(
    "kind",
    [
        diffusers.EulerDiscreteScheduler,
        diffusers.HeunDiscreteScheduler,
        diffusers.LMSDiscreteScheduler,
        diffusers.DPMSolverMultistepScheduler,
        diffusers.UniPCMultistepScheduler,
    ],
)
def test_levels_are_followed(kind: Any, levels: str) -> None:
    found = imported(kind(**{f"use_{levels}_sigmas": True}))
    assert found.sigma_schedule == levels
    assert found.notes == []
    assert imported(kind()).sigma_schedule is None


def test_levels_that_a_scheduler_does_not_read_are_not_its_levels() -> None:
    config = {**diffusers.DDIMScheduler().config, "use_karras_sigmas": True}
    assert import_schedule("DDIMScheduler", config).sigma_schedule is None


@pytest.mark.parametrize(
    ("algorithm", "sampler", "noted"),
    [
        ("dpmsolver++", "dpmpp_2m", False),
        ("sde-dpmsolver++", "dpmpp_2m_sde", False),
        ("dpmsolver", "dpmpp_2m", True),
        ("sde-dpmsolver", "dpmpp_2m_sde", True),
    ],
)
def test_the_algorithm_of_a_solver_is_followed_or_named(
    algorithm: str, sampler: str, noted: bool
) -> None:
    found = import_schedule("DPMSolverMultistepScheduler", {"algorithm_type": algorithm})
    assert found.sampler == sampler
    assert [algorithm in note for note in found.notes] == [True] * noted


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DPMSolverMultistepScheduler(
            final_sigmas_type="sigma_min", use_karras_sigmas=True
        ),
        diffusers.UniPCMultistepScheduler(final_sigmas_type="sigma_min"),
        diffusers.EulerDiscreteScheduler(final_sigmas_type="sigma_min"),
        diffusers.EulerDiscreteScheduler(use_exponential_sigmas=True, timestep_spacing="trailing"),
        diffusers.DPMSolverMultistepScheduler(timestep_spacing="leading", steps_offset=1),
        diffusers.UniPCMultistepScheduler(timestep_spacing="trailing", use_beta_sigmas=True),
        diffusers.HeunDiscreteScheduler(timestep_spacing="leading", use_karras_sigmas=True),
        diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_folders_plan_visits_the_schedulers_levels(scheduler: Any) -> None:
    found = imported(scheduler)
    assert found.notes == []
    schedule = VariancePreserving.model_validate(found.schedule)
    plan = make_plan(found.sampler, schedule, 7, found.sigma_schedule)
    scheduler.set_timesteps(7)
    # Some of diffusers' times are cut short, at the mercy of rounding: 999 becomes 998.
    assert np.abs(plan.times - scheduler.timesteps.numpy()).max() <= 1
    if isinstance(scheduler, diffusers.PNDMScheduler):
        return  # it has no sigmas
    sigmas = scheduler.sigmas.numpy()
    np.testing.assert_allclose(plan.sigmas / plan.alphas, sigmas[: len(plan)], rtol=2e-3)
    np.testing.assert_allclose(plan.next_sigmas[-1] / plan.next_alphas[-1], sigmas[-1], rtol=2e-3)


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        (diffusers.DDPMScheduler, {"variance_type": "fixed_large"}, "fixed_large"),
        (diffusers.PNDMScheduler, {}, "skip_prk_steps"),
        (diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}, "solver_order 3"),
        (diffusers.DPMSolverMultistepScheduler, {"solver_type": "heun"}, "heun"),
        (diffusers.DPMSolverMultistepScheduler, {"use_lu_lambdas": True}, "use_lu_lambdas"),
        (diffusers.DPMSolverMultistepScheduler, {"euler_at_final": True}, "euler_at_final"),
        (diffusers.UniPCMultistepScheduler, {"solver_order": 1}, "solver_order 1"),
        (diffusers.UniPCMultistepScheduler, {"solver_type": "bh1"}, "bh1"),
        (diffusers.EulerDiscreteScheduler, {"interpolation_type": "log_linear"}, "log_linear"),
        (diffusers.EulerDiscreteScheduler, {"sigma_max": 80.0}, "sigma_max"),
    ],
)
def test_what_is_not_followed_is_named(kind: Any, settings: dict[str, Any], word: str) -> None:
    (note,) = imported(kind(**settings)).notes
    assert word in note


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"PNDMScheduler"}))
def test_a_scheduler_as_it_comes_is_followed_in_everything(name: str) -> None:
    assert imported(getattr(diffusers, name)()).notes == []


def test_a_clipping_heun_clips() -> None:
    assert imported(diffusers.HeunDiscreteScheduler(clip_sample=True)).clip_sample == 1.0
    assert imported(diffusers.HeunDiscreteScheduler()).clip_sample is None


def test_what_cannot_be_served_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="served are"):
        import_schedule("KarrasVeScheduler", {})
    with pytest.raises(InvalidManifest, match="thresholding"):
        imported(diffusers.DDPMScheduler(thresholding=True))
    with pytest.raises(InvalidManifest, match="algorithm_type 'mine'"):
        import_schedule("DPMSolverMultistepScheduler", {"algorithm_type": "mine"})
    with pytest.raises(InvalidManifest, match="use_flow_sigmas"):
        import_schedule("UniPCMultistepScheduler", {"use_flow_sigmas": True})
    continuous = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    with pytest.raises(InvalidManifest, match="continuous"):
        import_schedule("EulerDiscreteScheduler", continuous)
    with pytest.raises(InvalidManifest, match="shift_terminal"):
        import_flow({"shift_terminal": 0.1}, image_tokens=16, most_shift=1.15, to_last=False)


@pytest.mark.parametrize("steps", [1, 2, 7, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_left_to_its_scheduler_visits_the_schedulers_times(steps: int, shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    found = import_flow(dict(scheduler.config), image_tokens=16, most_shift=1.16, to_last=True)
    plan = make_plan("euler", Flow.model_validate(found.schedule), steps)
    np.testing.assert_allclose(plan.times, scheduler.timesteps.numpy(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_flow_whose_shift_depends_on_the_resolution_visits_the_schedulers_times(
    kind: str,
) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, time_shift_type=kind
    )
    tokens, steps = 1024, 6
    mu = 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)
    scheduler.set_timesteps(sigmas=list(np.linspace(1.0, 1 / steps, steps)), mu=mu)
    found = import_flow(dict(scheduler.config), image_tokens=tokens, most_shift=1.15, to_last=False)
    plan = make_plan("euler", Flow.model_validate(found.schedule), steps)
    np.testing.assert_allclose(plan.times, scheduler.timesteps.numpy(), rtol=1e-5)


@pytest.mark.parametrize("levels", ["karras", "exponential", "beta"])
def test_a_flow_visits_the_levels_that_its_scheduler_is_told(levels: str) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, **{f"use_{levels}_sigmas": True}
    )
    scheduler.set_timesteps(6)
    found = import_flow(dict(scheduler.config), image_tokens=16, most_shift=1.16, to_last=True)
    assert found.sigma_schedule == levels
    plan = make_plan("euler", Flow.model_validate(found.schedule), 6, found.sigma_schedule)
    np.testing.assert_allclose(plan.times, scheduler.timesteps.numpy(), rtol=1e-4)


def test_what_a_flow_does_not_follow_is_named() -> None:
    config = {"stochastic_sampling": True}
    (note,) = import_flow(config, image_tokens=16, most_shift=1.15, to_last=False).notes
    assert "stochastic_sampling" in note
