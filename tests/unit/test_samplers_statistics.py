"""Every sampler draws from the right distribution, given the exact denoiser of a known mixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from services.sampling.dpm_solver import multistep_2
from services.sampling.plan import Plan, make
from services.sampling.samplers import SAMPLERS, make_plan, samplers_for
from services.sampling.schedule import Flow, Grid, VarianceExploding, VariancePreserving
from tests.mixtures import THREE
from tests.trajectories import Denoiser, Walk, run

COUNT = 10_000
STEPS = {
    "heun": 60,
    "unipc": 60,
    "lms": 120,
    "pndm": 120,
    "dpmpp_2m": 120,
    "lcm": 4,
    "predictor_corrector": 250,
    "annealed_langevin": 60,
}
EXPLODING = VarianceExploding(
    sigma_min=0.01, sigma_max=20.0, langevin_steps=20, langevin_step_size=2e-5
)
MANY = 400  # of the samplers of first order, and those along the reverse SDE


def exact_draws(seed: int) -> Tensor:
    return THREE.draws(COUNT, seed)


def exact(x: Tensor, _: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> Tensor:
    return THREE.denoise(x, float(alphas[0]), float(sigmas[0]))


class Points(Walk):
    """All points as the rows of one state, under the same coefficients."""

    def noise(self) -> Tensor:
        return torch.randn((COUNT, 2), generator=self._draw.generator, dtype=torch.float64)


def draws(plan: Plan, denoise: Denoiser = exact, seed: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((COUNT, 2), generator=generator, dtype=torch.float64)
    return run([Points(plan, start, seed + 1)], denoise)[0]


def share_of_chance(found: Tensor, expected: Tensor, *, shuffles: int = 150) -> float:
    """The p-value of a permutation test of equality by the sliced energy distance.

    On a line the energy distance is ``2 integral (F - G)^2`` (Szekely and Rizzo, 2013); it is
    averaged over directions in the half circle.
    """
    angles = torch.arange(8) * torch.pi / 8
    directions = torch.stack([angles.cos(), angles.sin()]).double()
    places, order = (torch.cat([found, expected]) @ directions).T.sort(dim=1)
    gaps = places.diff(dim=1)
    generator = torch.Generator().manual_seed(0)

    def distance(labels: Tensor) -> float:
        between = labels[order].cumsum(1)[:, :-1] / COUNT
        return float((between.square() * gaps).sum())

    labels = torch.cat([torch.ones(COUNT), -torch.ones(COUNT)]).double()
    seen = distance(labels)
    chance = [
        distance(labels[torch.randperm(2 * COUNT, generator=generator)]) for _ in range(shuffles)
    ]
    return (1 + sum(value >= seen for value in chance)) / (1 + shuffles)


def consistency_function(schedule: VariancePreserving | Flow) -> Denoiser:
    """What a distilled network computes: where the ODE ends."""

    def follow(x: Tensor, times: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> Tensor:
        if isinstance(schedule, Flow):
            levels = np.linspace(float(sigmas[0]), 0.0, 81)
            grid = Grid(levels[:-1], 1 - levels, levels, straight=True)
        else:
            visited = np.linspace(float(times[0]), 0.0, min(80, int(times[0]) + 1)).round()
            signal = np.append(schedule.signal()[visited.astype(int)], 1.0)
            grid = Grid(visited, np.sqrt(signal), np.sqrt(1 - signal))
        return run([Points(make(multistep_2, grid), x[0])], exact)[0][None]

    return follow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        (sampler, schedule)
        for schedule in (VariancePreserving(), Flow(), EXPLODING)
        for sampler in samplers_for(schedule)
    ],
)
def test_ten_thousand_draws_are_of_the_mixture(
    sampler: str, schedule: VariancePreserving | Flow | VarianceExploding
) -> None:
    plan = make_plan(sampler, schedule, STEPS.get(sampler, MANY))
    denoise = exact
    if sampler == "lcm" and not isinstance(schedule, VarianceExploding):
        denoise = consistency_function(schedule)
    assert share_of_chance(draws(plan, denoise), exact_draws(1)) > 0.01


@pytest.mark.slow
def test_the_test_tells_exact_draws_from_coarse_ones() -> None:
    assert share_of_chance(exact_draws(2), exact_draws(1)) > 0.01
    for sampler, steps in (("ddim", 10), ("euler_ancestral", 20), ("dpmpp_3m_sde", 5)):
        plan = make_plan(sampler, VariancePreserving(), steps)
        assert share_of_chance(draws(plan), exact_draws(1)) < 0.01, sampler


def test_every_sampler_is_drawn_from() -> None:
    assert set(STEPS) <= set(SAMPLERS)
    fitting = {*samplers_for(VariancePreserving()), *samplers_for(EXPLODING)}
    assert fitting == set(SAMPLERS)
