"""Samplers along a straight flow, against diffusers' schedulers where it has one."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from services.sampling.plan import make
from services.sampling.samplers import SAMPLERS, make_plan, samplers_for
from services.sampling.schedule import Flow, Grid
from tests.trajectories import Walk, denoiser_of, run, run_diffusers, start_of

TOLD = 400.0  # diffusers' solvers round a flow's time; so the network hears one time from both


def scheduler_of(sampler: str, sigmas: np.ndarray) -> Any:
    """A scheduler that visits exactly these levels."""
    if sampler == "euler":
        made: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    elif sampler == "heun":
        made = diffusers.FlowMatchHeunDiscreteScheduler()
    elif sampler == "lcm":
        made = diffusers.FlowMatchLCMScheduler()
    elif sampler == "unipc":
        made = diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction"
        )
    else:
        kind = {"dpmpp_2m": "dpmsolver++", "dpmpp_2m_sde": "sde-dpmsolver++"}[sampler]
        made = diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", algorithm_type=kind
        )
    made.set_timesteps(len(sigmas) - 1)
    levels = torch.from_numpy(sigmas.copy()).double()
    if sampler == "heun":
        levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    made.sigmas = levels
    return made


@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "heun", "lcm", "unipc", "dpmpp_2m", "dpmpp_2m_sde"])
def test_equals_diffusers_along_a_flow(
    sampler: str, shift: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(sampler, Flow(shift=shift), steps)
    if sampler in ("unipc", "dpmpp_2m", "dpmpp_2m_sde"):
        # Diffusers takes the logarithm of the first level's signal: leave it some, on both sides.
        sigmas = plan.grid.sigmas.copy()
        sigmas[0] -= 1e-6
        plan = make(plan.rule, Grid(plan.grid.times, 1 - sigmas, sigmas, straight=True))
    scheduler = scheduler_of(sampler, plan.grid.sigmas)
    expected = run_diffusers(scheduler, start_of(1), 2, monkeypatch, told=TOLD)[0]
    (found,) = run([Walk(plan, start_of(1)[0], 2)], denoiser_of("flow", TOLD))
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5), (found - expected).abs().max()


@pytest.mark.parametrize("steps", [4, 9])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["karras", "exponential", "beta"])
def test_sigma_schedules_of_a_flow_equal_diffusers(name: Any, shift: float, steps: int) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, **{f"use_{name}_sigmas": True})
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    grid = Flow(shift=shift, time_scale=1000).grid(steps, name)
    assert grid.sigmas == pytest.approx(theirs.sigmas.numpy(), abs=1e-6)
    assert grid.times == pytest.approx(theirs.timesteps.numpy(), rel=1e-5)


def adams_bashforth(times: np.ndarray, start: Tensor) -> Tensor:
    """Uneven linear multistep of order 4 on the velocity, with weights by a Vandermonde system."""
    x, slopes = start, []
    for i, time in enumerate(times[:-1]):
        slopes = [network_velocity(x), *slopes][:4]
        visited = times[i - len(slopes) + 1 : i + 1][::-1] - time
        end = times[i + 1] - time
        powers = np.arange(len(slopes))
        moments = end ** (powers + 1) / (powers + 1)
        weights = np.linalg.solve(np.vander(visited, increasing=True).T, moments)
        x = x + sum(w * slope for w, slope in zip(weights, slopes, strict=True))
    return x


def network_velocity(x: Tensor) -> Tensor:
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1))


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_lms_is_adams_bashforth_on_the_velocity(steps: int) -> None:
    plan = make_plan("lms", Flow(shift=2.0), steps)

    def denoise(x: Tensor, _: Any, __: Any, sigmas: np.ndarray) -> Tensor:
        return x - float(sigmas[0]) * network_velocity(x)

    (found,) = run([Walk(plan, start_of(5)[0])], denoise)
    assert torch.allclose(found, adams_bashforth(plan.grid.sigmas, start_of(5)[0]), atol=1e-9)


def test_only_what_needs_a_signal_does_not_fit_a_flow() -> None:
    assert set(samplers_for(Flow())) == set(SAMPLERS) - {"pndm", "annealed_langevin"}
