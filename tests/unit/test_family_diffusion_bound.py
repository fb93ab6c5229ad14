"""The variational bound of a diffusion model, against its closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from services.sampling.bounds import diffusion_last_term, diffusion_prior_term
from services.sampling.schedule import VariancePreserving
from tests.engines import (
    ask,
    opened,
    ready,
)
from tests.gaussian_data import SCHEDULES, SHAPE, STD, GaussianData, in_pixels, typical
from tests.linear_latents import GAIN, LATENT_STD, SCALE, SHIFT, in_latents

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)


@EVERY_SCHEDULE
def test_the_bound_is_the_closed_form_and_lies_below_the_exact_likelihood(schedule: str) -> None:
    engine, image, steps, dims = ready(in_pixels(schedule)), typical(), 100, 64
    values = ask(engine, "likelihood", images=[image], steps=steps, samples=8)[0].values
    width = 2 / 256
    x = (image.astype(float) + 0.5) * width - 1
    edges = stats.norm(0, STD).cdf([x - width / 2, x + width / 2])
    exact = float(np.log(np.diff(edges, axis=0)).sum())
    kind, _ = SCHEDULES[schedule]
    grid = kind.bound_grid(steps)
    # Every term is linear in |x_0|^2, and dequantisation adds its variance to that.
    square = float((x**2).sum()) + dims * width**2 / 12
    x_0 = torch.full((dims,), math.sqrt(square / dims), dtype=torch.float64)
    cost = sum(GaussianData(STD, kind).expected_terms(x_0, steps))
    cost += float(diffusion_prior_term(x_0[None], (float(grid.alphas[0]), float(grid.sigmas[0]))))
    cost += diffusion_last_term(dims, (float(grid.alphas[-1]), float(grid.sigmas[-1])))
    expected = -cost + dims * math.log(width)
    error = values["std_error"]
    assert values["log_likelihood"] == pytest.approx(expected, abs=4 * error + 0.05)
    assert expected < exact
    assert expected == pytest.approx(exact, abs=0.6 * dims)
    assert values["kind"] == "lower_bound"
    assert sum(values["terms"].values()) == pytest.approx(values["log_likelihood"])
    assert values["bits_per_dim"] == pytest.approx(-values["log_likelihood"] / math.log(2) / dims)


@EVERY_SCHEDULE
def test_more_terms_tighten_the_bound(schedule: str) -> None:
    engine, image = ready(in_pixels(schedule)), typical(1)
    found = [
        ask(engine, "likelihood", images=[image], steps=steps, samples=4)[0].values
        for steps in (6, 24, 96)
    ]
    for coarse, fine in pairwise(found):
        error = math.hypot(coarse["std_error"], fine["std_error"])
        assert coarse["log_likelihood"] < fine["log_likelihood"] - 3 * error


def test_the_standard_error_is_the_spread_over_seeds() -> None:
    engine, image = ready(in_pixels()), typical(2)
    found = [
        ask(engine, "likelihood", images=[image], steps=6, samples=8, seed=seed)[0].values
        for seed in range(30)
    ]
    spread = float(np.std([value["log_likelihood"] for value in found]))
    assert np.median([value["std_error"] for value in found]) == pytest.approx(spread, rel=0.35)
    single = ask(engine, "likelihood", images=[image], steps=6, samples=1)[0].values
    assert single["std_error"] is None


def test_an_unlikely_image_has_a_lower_bound() -> None:
    engine = ready(in_pixels())
    white = np.full(SHAPE, 255, np.uint8)
    usual, odd = ask(engine, "likelihood", images=[typical(), white], steps=20)
    assert odd.values["log_likelihood"] < usual.values["log_likelihood"] - 100


@pytest.mark.parametrize("pixel", [60, 190])
def test_the_bound_in_latents_lies_just_below_the_integrated_likelihood(pixel: int) -> None:
    engine = ready(in_latents())
    image = np.full((1, 1, 1), pixel, np.uint8)

    def joint(z: float) -> float:
        logistic = stats.logistic(GAIN * z + SHIFT, SCALE)
        mass = logistic.cdf(pixel + 0.5) - logistic.cdf(pixel - 0.5)
        return float(stats.norm(0.5, 2 * LATENT_STD).pdf(z) * mass)

    center = (pixel - SHIFT) / GAIN
    exact = math.log(integrate.quad(joint, center - 8, center + 8, points=[center])[0])
    values = ask(engine, "likelihood", images=[image], steps=100, samples=16)[0].values
    error = values["std_error"]
    assert values["log_likelihood"] < exact + 3 * error
    assert values["log_likelihood"] == pytest.approx(exact, abs=0.5 + 4 * error)
    assert sum(values["terms"].values()) == pytest.approx(values["log_likelihood"])


def test_the_terms_in_latents_are_those_of_the_encoders_posterior() -> None:
    engine, pixel = ready(in_latents()), 150
    image = np.full((1, 1, 1), pixel, np.uint8)
    output = engine.model.networks["encoder"](image=torch.full((1, 1, 1, 1), float(pixel)))
    posterior = stats.norm(float(output["mean"]), math.exp(0.5 * float(output["log_variance"])))

    z = posterior.ppf((np.arange(4000) + 0.5) / 4000)
    logistic = stats.logistic(GAIN * z + SHIFT, SCALE)
    log_mass = np.log(logistic.cdf(pixel + 0.5) - logistic.cdf(pixel - 0.5))
    found = ask(engine, "likelihood", images=[image], steps=2, samples=64)[0].values
    error = float(log_mass.std()) / 8
    assert found["terms"]["reconstruction"] == pytest.approx(log_mass.mean(), abs=4 * error)
    entropy = float(posterior.entropy()) - math.log(2.0)
    assert found["terms"]["entropy"] == pytest.approx(entropy, rel=1e-5)


def test_a_schedule_that_ends_before_pure_noise_pays_for_what_it_still_knows() -> None:
    """Its noisiest level has half of the signal; the bound charges the divergence to N(0, I)."""
    schedule = VariancePreserving(beta_end=0.0026)
    network = GaussianData(STD, schedule).network(SHAPE, "epsilon")
    options = {"schedule": schedule.model_dump()}
    model = opened("diffusion", {"denoiser": network}, resolution=SHAPE[1:], options=options)
    image, dims = typical(3), 64
    values = ask(ready(model), "likelihood", images=[image], steps=4, samples=16)[0].values
    signal = schedule.signal()
    assert signal[-1] > 0.2
    x = (image.astype(float) + 0.5) / 128 - 1
    square = float((x**2).sum()) + dims / 128**2 / 12
    variance = 1 - signal[-1]
    prior = 0.5 * (signal[-1] * square + dims * (variance - 1 - math.log(variance)))
    last = dims * stats.norm(0, math.sqrt((1 - signal[0]) / signal[0])).entropy()
    assert prior > 1
    assert values["terms"]["ends"] == pytest.approx(-prior - last, abs=0.1)
