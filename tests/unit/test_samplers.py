"""Every sampler against diffusers' scheduler of that name, over whole trajectories."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from services.sampling.denoiser import to_denoised
from services.sampling.samplers import SAMPLERS, Plan, advance, make_plan
from services.sampling.schedule import Flow, VariancePreserving

SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
STEPS = (2, 7, 20, 50)
SHAPE = (3, 4, 4)
DIFFUSERS = {
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
}


def network(x: Tensor, time: Tensor) -> Tensor:
    """A smooth stand-in for a network that predicts noise, in float64."""
    t = time.double().view(-1, 1, 1, 1) / 1000
    return torch.tanh(0.8 * x + 0.3 * torch.sin(3 * t + x.roll(1, -1))) * (0.5 + 0.5 * t)


class Noise:
    """The same noise for both sides, in the order of the network evaluations."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *_: object, **__: object) -> Tensor:
        return torch.randn((1, *SHAPE), generator=self.generator, dtype=torch.float64)


def run_diffusers(
    sampler: str,
    config: dict[str, object],
    steps: int,
    start: Tensor,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> Tensor:
    kind, extra = DIFFUSERS[sampler]
    module = __import__(kind.__module__, fromlist=["randn_tensor"])
    noise = Noise(seed)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", noise)
    scheduler = kind(num_train_timesteps=1000, **config, **extra)
    scheduler.set_timesteps(steps)
    x = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t.view(1))
        x = scheduler.step(output, t, x).prev_sample.double()
    return x


class Row:
    """One of our trajectories, in float64."""

    def __init__(self, plan: Plan, start: Tensor, seed: int) -> None:
        self.plan, self.index, self.noise = plan, 0, Noise(seed)
        self.x = start[0] * plan.initial_scale
        self.past = torch.zeros(SHAPE, dtype=torch.float64)


def tick(rows: list[Row]) -> None:
    """Advance a mixed batch by one evaluation, as the diffusion family does."""
    at = [(r.plan, r.index) for r in rows]
    x = torch.stack([r.x for r in rows])
    times = torch.tensor([p.times[i] for p, i in at])
    denoised = to_denoised(
        "epsilon",
        x,
        network(x, times),
        torch.tensor([p.alphas[i] for p, i in at]),
        torch.tensor([p.sigmas[i] for p, i in at]),
    )
    coefficients = torch.from_numpy(
        np.stack([np.concatenate(([p.state[i]], p.denoised[i], [p.noise[i]])) for p, i in at])
    )
    noise = torch.stack(
        [
            r.noise()[0] if p.noise[i] else torch.zeros_like(r.x)
            for r, (p, i) in zip(rows, at, strict=True)
        ]
    )
    moved = advance(x, [denoised, torch.stack([r.past for r in rows])], noise, coefficients)
    for row, state, image in zip(rows, moved, denoised, strict=True):
        row.x, row.past, row.index = state, image, row.index + 1


def start_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *SHAPE), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equals_diffusers(
    sampler: str, schedule: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SCHEDULES[schedule]
    expected = run_diffusers(sampler, config, steps, start_of(1), 2, monkeypatch)
    plan = make_plan(sampler, VariancePreserving.model_validate(config), steps)
    row = Row(plan, start_of(1), 2)
    while row.index < len(plan):
        tick([row])
    assert torch.allclose(row.x, expected[0], atol=1e-5, rtol=1e-5), (
        (row.x - expected[0]).abs().max()
    )


def test_equals_diffusers_beside_other_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(s, c, n) for s in SAMPLERS for c in SCHEDULES for n in (5, 12)]
    expected = [
        run_diffusers(s, SCHEDULES[c], n, start_of(i), 100 + i, monkeypatch)
        for i, (s, c, n) in enumerate(cases)
    ]
    rows = [
        Row(make_plan(s, VariancePreserving.model_validate(SCHEDULES[c]), n), start_of(i), 100 + i)
        for i, (s, c, n) in enumerate(cases)
    ]
    while batch := [row for row in rows if row.index < len(row.plan)]:
        tick(batch)
    for case, row, value in zip(cases, rows, expected, strict=True):
        assert torch.allclose(row.x, value[0], atol=1e-5, rtol=1e-5), case


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_denoiser_reaches_its_image(sampler: str) -> None:
    image = start_of(7)[0]
    for schedule in (VariancePreserving(), Flow()):
        plan = make_plan(sampler, schedule, 9)
        x, past = start_of(8)[0] * plan.initial_scale, image
        for i in range(len(plan)):
            row = np.concatenate(([plan.state[i]], plan.denoised[i], [plan.noise[i]]))
            moved = advance(
                x[None],
                [image[None], past[None]],
                torch.zeros_like(x)[None],
                torch.from_numpy(row)[None],
            )
            x = moved[0]
        assert torch.allclose(x, image, atol=1e-6)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "ddim"])
def test_straight_flow_converges_to_the_exact_ode(sampler: str) -> None:
    """For data N(m, s^2) the flow's ODE has a closed form: quantiles are kept."""
    mean, std = 0.7, 0.3
    start = start_of(3)[0]
    exact = mean + std * start
    errors = []
    for steps in (10, 80):
        plan = make_plan(sampler, Flow(), steps)
        x, past = start.clone(), torch.zeros_like(start)
        for i in range(len(plan)):
            alpha, sigma = plan.alphas[i], plan.sigmas[i]
            gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
            denoised = mean + gain * (x - alpha * mean)
            row = np.concatenate(([plan.state[i]], plan.denoised[i], [plan.noise[i]]))
            x = advance(x[None], [denoised[None], past[None]], None, torch.from_numpy(row)[None])[0]
            past = denoised
        errors.append(float((x - exact).abs().max()))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.02


def test_a_later_start_takes_nothing_from_a_missing_past() -> None:
    plan = make_plan("dpmpp_2m", VariancePreserving(), 20).from_step(8)
    assert len(plan) == 12
    assert plan.denoised[0, 1] == 0
    assert plan.denoised[1, 1] != 0
    assert plan.state[0] * plan.sigmas[0] == pytest.approx(plan.next_sigmas[0])
    heun = make_plan("heun", VariancePreserving(), 20).from_step(8)
    assert len(heun) == 2 * 12 - 1


def test_unknown_samplers_and_impossible_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown sampler 'magic'; known are ddpm"):
        make_plan("magic", Flow(), 10)
    with pytest.raises(ValueError, match="from 1 to 1000"):
        make_plan("euler", VariancePreserving(), 1001)
