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


def test_what_is_not_followed_is_named() -> None:
    karras = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    assert any("use_karras_sigmas" in note for note in imported(karras).notes)
    large = diffusers.DDPMScheduler(variance_type="fixed_large")
    assert any("fixed_large" in note for note in imported(large).notes)
    assert imported(diffusers.DDPMScheduler()).notes == []


def test_what_cannot_be_served_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="served are"):
        import_schedule("KarrasVeScheduler", {})
    with pytest.raises(InvalidManifest, match="thresholding"):
        imported(diffusers.DDPMScheduler(thresholding=True))
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
