"""Annealed Langevin dynamics, and variance that explodes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.errors import InvalidParameter
from services.sampling.denoiser import to_denoised
from services.sampling.samplers import make_plan
from services.sampling.schedule import VarianceExploding
from tests.trajectories import Noise, Walk, run, start_of

SCHEDULE = VarianceExploding(
    sigma_min=0.05, sigma_max=4.0, langevin_steps=7, langevin_step_size=4e-4
)


def score(x: Tensor, sigma: float) -> Tensor:
    """A smooth stand-in for a score network."""
    return -torch.tanh(0.5 * x + 0.2 * x.roll(1, -1)) / (1 + sigma**2)


def denoise(x: Tensor, times: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> Tensor:
    output = torch.stack([score(row, time) for row, time in zip(x, times, strict=True)])
    return to_denoised("score", x, output, torch.from_numpy(alphas), torch.from_numpy(sigmas))


def test_the_step_size_is_song_and_ermons_unless_it_is_given() -> None:
    assert VarianceExploding(sigma_min=0.01).epsilon == pytest.approx(2e-5)
    assert SCHEDULE.epsilon == 4e-4


def test_more_evaluations_than_a_trajectory_may_take_are_refused() -> None:
    schedule = VarianceExploding(langevin_steps=1000)
    assert len(make_plan("annealed_langevin", schedule, 10)) == 10_001
    with pytest.raises(InvalidParameter, match="from 1 to 10 with annealed_langevin") as caught:
        make_plan("annealed_langevin", schedule, 11)
    assert caught.value.param == "steps"


@pytest.mark.parametrize("levels", [1, 2, 10])
def test_annealed_langevin_is_algorithm_1(levels: int) -> None:
    sigmas = SCHEDULE.grid(levels).sigmas[:-1]
    noise, x = Noise(5), start_of(4) * SCHEDULE.sigma_max
    for sigma in sigmas:
        size = 4e-4 * sigma**2 / sigmas[-1] ** 2
        for _ in range(SCHEDULE.langevin_steps):
            x = x + size / 2 * score(x, sigma) + math.sqrt(size) * noise()
    x = x + sigmas[-1] ** 2 * score(x, sigmas[-1])
    plan = make_plan("annealed_langevin", SCHEDULE, levels)
    assert len(plan) == 7 * levels + 1
    assert plan.starts == tuple(range(0, 7 * levels, 7))
    (found,) = run([Walk(plan, start_of(4)[0], 5)], denoise)
    assert torch.allclose(found, x[0], atol=1e-9)


def test_predictor_and_corrector_are_those_of_song_et_al() -> None:
    sigmas = SCHEDULE.grid(9).sigmas
    noise, x = Noise(5), start_of(4) * SCHEDULE.sigma_max
    for sigma, after in pairwise(sigmas):
        fall = sigma**2 - after**2
        x = x + fall * score(x, sigma)
        if after == 0:
            break
        x = x + after / sigma * math.sqrt(fall) * noise()
        size = 2 * (0.16 * after) ** 2
        x = x + size * score(x, after) + math.sqrt(2 * size) * noise()
    plan = make_plan("predictor_corrector", SCHEDULE, 9)
    (found,) = run([Walk(plan, start_of(4)[0], 5)], denoise)
    assert torch.allclose(found, x[0], atol=1e-9)


@pytest.mark.parametrize("sampler", ["euler", "heun", "lms", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("name", [None, "karras"])
def test_deterministic_samplers_converge_under_exploding_noise(sampler: str, name: Any) -> None:
    """For data N(m, s^2) quantiles are kept."""
    mean, std, schedule = 0.7, 0.3, VarianceExploding(sigma_min=0.002, sigma_max=30.0)
    start = start_of(3)[0]

    def exact(x: Tensor, _: np.ndarray, __: np.ndarray, sigmas: np.ndarray) -> Tensor:
        return mean + std**2 / (std**2 + float(sigmas[0]) ** 2) * (x - mean)

    noisy = start * schedule.sigma_max
    expected = mean + std * (noisy - mean) / math.hypot(std, schedule.sigma_max)
    errors = []
    for steps in (15, 120):
        (found,) = run([Walk(make_plan(sampler, schedule, steps, name), start)], exact)
        errors.append(float((found - expected).abs().max()))
    assert errors[1] < errors[0] / 4
    assert errors[1] < (0.05 if sampler == "euler" else 0.01)
