"""Likelihood by the probability-flow ODE, as a diffusion model serves it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import EngineFailure, InvalidParameter, UnsupportedTask
from services.core.images import Pixels
from services.core.network import DifferentiableNetwork, OpenedModel
from services.core.trajectory import Result
from services.families import discover
from services.families.diffusion import ode_flight
from services.sampling.ode import point_at
from services.serving.in_process import InProcessBackend, PoolSettings
from tests import linear_latents as linear
from tests.differentiable import WithGradients, with_gradients
from tests.engines import ask, call, carry, ready, some_pixels
from tests.gaussian_data import SCHEDULES, SHAPE, STD, in_pixels, typical
from tests.tiny_models import Shelf, tiny_diffusion

DIMS = math.prod(SHAPE)
BIN = 2 / 256
EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)


def gradients_of(engine: Engine) -> WithGradients:
    network = engine.model.differentiable("denoiser")
    assert isinstance(network, WithGradients)
    return network


def differentiable(schedule: str = "flow") -> OpenedModel:
    return with_gradients(in_pixels(schedule))


def in_latents() -> OpenedModel:
    return with_gradients(tiny_diffusion())


def estimate(engine: Engine, image: Pixels, **parameters: Any) -> Mapping[str, Any]:
    return ask(engine, "likelihood", images=[image], method="ode", **parameters)[0].values


def rgb(seed: int = 0) -> Pixels:
    return some_pixels(3, 8, 8, seed=seed)


@EVERY_SCHEDULE
def test_the_estimate_is_the_closed_form(schedule: str) -> None:
    """Of Gaussian data, dequantised uniformly and with the schedule's least noise added."""
    engine, image = ready(differentiable(schedule)), typical()
    found = estimate(engine, image, steps=24, probes=24)
    first = point_at(SCHEDULES[schedule][0], 0.0)
    center = (image.astype(float) + 0.5) * BIN - 1
    square = float((center**2).sum()) + DIMS * BIN**2 / 12
    noisy = first.alpha**2 * square + DIMS * first.sigma**2
    variance = first.alpha**2 * STD**2 + first.sigma**2
    density = -0.5 * (noisy / variance + DIMS * math.log(2 * math.pi * variance))
    expected = density + DIMS * (math.log(first.alpha) + math.log(BIN))
    error = found["std_error"]
    assert 0 < error < 2
    assert found["log_likelihood"] == pytest.approx(expected, abs=3 * error + 0.05)
    assert found["kind"] == "estimate"
    assert found["samples"] == 24


@pytest.mark.parametrize("build", [differentiable, in_latents])
def test_the_terms_add_up_and_only_the_diffusions_part_differs_from_the_bounds(
    build: Any,
) -> None:
    engine = ready(build())
    image = typical() if build is differentiable else rgb()
    found = estimate(engine, image, steps=4, probes=2)
    bound = ask(engine, "likelihood", images=[image], steps=4, samples=2)[0].values
    assert sum(found["terms"].values()) == pytest.approx(found["log_likelihood"])
    assert list(found["terms"]) == ["reconstruction", "log_prior", "log_det", "ends", "entropy"]
    assert found["terms"]["entropy"] == bound["terms"]["entropy"]
    assert found["bits_per_dim"] == pytest.approx(
        -found["log_likelihood"] / math.log(2) / image.size
    )
    single = estimate(engine, image, steps=4, probes=1)
    assert single["std_error"] is None


@EVERY_SCHEDULE
def test_the_bound_rises_to_the_estimate_with_its_terms(schedule: str) -> None:
    """With the best denoiser there is, the bound's limit and the ODE have the same density."""
    engine, image = ready(differentiable(schedule)), typical(1)
    coarse, fine = (
        ask(engine, "likelihood", images=[image], steps=steps, samples=4)[0].values
        for steps in (16, 128)
    )
    found = estimate(engine, image, steps=16, probes=16)
    error = math.hypot(fine["std_error"], found["std_error"])
    gaps = [found["log_likelihood"] - bound["log_likelihood"] for bound in (coarse, fine)]
    assert -3 * error < gaps[1] < gaps[0] / 4 + 3 * error


@pytest.mark.parametrize("pixel", [60, 190])
def test_in_latents_the_estimate_lies_just_below_the_integrated_likelihood(pixel: int) -> None:
    """Where the bound of a hundred terms does too: the encoder's posterior costs them both."""
    engine, image = ready(with_gradients(linear.in_latents())), np.full((1, 1, 1), pixel, np.uint8)

    def joint(z: float) -> float:
        logistic = stats.logistic(linear.GAIN * z + linear.SHIFT, linear.SCALE)
        mass = logistic.cdf(pixel + 0.5) - logistic.cdf(pixel - 0.5)
        return float(stats.norm(0.5, 2 * linear.LATENT_STD).pdf(z) * mass)

    center = (pixel - linear.SHIFT) / linear.GAIN
    exact = math.log(integrate.quad(joint, center - 8, center + 8, points=[center])[0])
    found = estimate(engine, image, steps=12, probes=32)
    error = found["std_error"]
    assert found["log_likelihood"] < exact + 3 * error
    assert found["log_likelihood"] == pytest.approx(exact, abs=0.2 + 4 * error)


def test_an_unlikely_image_has_a_lower_estimate() -> None:
    engine, white = ready(differentiable()), np.full(SHAPE, 255, np.uint8)
    odd, usual = (estimate(engine, image, steps=8, probes=2) for image in (white, typical()))
    assert odd["log_likelihood"] < usual["log_likelihood"] - 100


def test_the_standard_error_is_the_spread_over_seeds() -> None:
    engine, image = ready(differentiable()), typical(2)
    found = [estimate(engine, image, steps=4, probes=8, seed=seed) for seed in range(24)]
    spread = float(np.std([value["log_likelihood"] for value in found], ddof=1))
    assert np.median([value["std_error"] for value in found]) == pytest.approx(spread, rel=0.4)


@pytest.mark.parametrize("build", [differentiable, in_latents])
def test_adaptive_steps_come_to_what_many_fixed_ones_do(build: Any) -> None:
    """Noise and probes are drawn before the first step, so the same seed solves the same ODE."""
    engine = ready(build())
    image = typical() if build is differentiable else rgb()
    fixed = estimate(engine, image, steps=48, probes=2, seed=4)
    adaptive = estimate(engine, image, solver="dopri5", tolerance=1e-4, probes=2, seed=4)
    # The network computes in float32, and its error is all that is left.
    assert adaptive["log_likelihood"] == pytest.approx(fixed["log_likelihood"], abs=0.1)
    again = estimate(engine, image, solver="dopri5", tolerance=1e-4, probes=2, seed=4)
    assert again == adaptive


def mixed_jobs(engine: Engine) -> list[Any]:
    """ODE rows of several lengths, prompts and numbers of probes, and an adaptive one."""
    asked: Sequence[Mapping[str, Any]] = (
        {"steps": 3, "probes": 2},
        {"steps": 5, "probes": 1, "seed": 7, "prompt": "a red circle"},
        {"steps": 2, "probes": 3, "seed": 9},
        {"solver": "dopri5", "tolerance": 0.1, "probes": 1, "seed": 3},
    )
    return [
        job
        for number, what in enumerate(asked)
        for job in engine.jobs(
            call("likelihood", images=[rgb(number), rgb(10 + number)], method="ode", **what)
        )
    ]


def test_a_row_is_bitwise_the_same_alone_and_in_any_company() -> None:
    engine = ready(in_latents())
    jobs = mixed_jobs(engine)
    alone = [carry(engine, [job])[0].values for job in jobs]
    batch = engine.prepare(jobs)
    while unfinished := [t for t in batch if not t.finished]:
        for key in {t.workload.step for t in unfinished}:
            engine.step([t for t in reversed(unfinished) if t.workload.step == key])
    together = [result.values for result in engine.decode(batch)]
    assert together == alone


def test_rows_share_one_evaluation_whatever_step_each_is_at() -> None:
    engine = ready(in_latents())
    first, second = (
        engine.prepare(engine.jobs(call("likelihood", images=[rgb(s)], method="ode", **what)))[0]
        for s, what in enumerate(({"steps": 3, "probes": 2}, {"steps": 5, "probes": 4}))
    )
    assert first.workload.step == second.workload.step
    assert (first.workload.evaluations, second.workload.evaluations) == (12, 20)
    assert (first.workload.rows, second.workload.rows) == (2, 4)
    engine.step([first])
    before = len(gradients_of(engine).batches)
    engine.step([first, second])
    assert gradients_of(engine).batches[before:] == [6]
    assert (first.index, second.index) == (2, 1)


def test_rows_of_the_ode_do_not_step_with_those_of_a_sampler() -> None:
    engine = ready(in_latents())
    keys = {
        engine.workload(engine.jobs(what)[0]).step
        for what in (
            call("generate"),
            call("likelihood", images=[rgb()], method="ode"),
            call("likelihood", images=[rgb()], method="ode", solver="dopri5"),
        )
    }
    assert len(keys) == 3


def test_gradients_are_opened_when_they_are_first_asked_for() -> None:
    model, openings = in_latents(), []

    def open_now() -> DifferentiableNetwork:
        openings.append("denoiser")
        return model.differentiable("denoiser")

    engine = ready(replace(model, gradients={"denoiser": open_now}))
    ask(engine, "generate", steps=2)
    ask(engine, "likelihood", images=[rgb()], steps=2, samples=1)
    engine.jobs(call("likelihood", images=[rgb()], method="ode"))
    assert openings == []
    for _ in range(2):
        estimate(engine, rgb(), steps=2, probes=1)
    assert openings == ["denoiser"]


def test_a_model_without_gradients_refuses_with_the_reason_and_the_bound() -> None:
    engine = ready(tiny_diffusion())
    assert engine.describe().limits["likelihood_methods"] == ["bound"]
    with pytest.raises(UnsupportedTask, match=r"cannot be differentiated.*method 'bound'") as error:
        engine.jobs(call("likelihood", images=[rgb()], method="ode"))
    assert error.value.param == "method"
    assert ask(engine, "likelihood", images=[rgb()], steps=2)[0].values["kind"] == "lower_bound"
    assert ready(in_latents()).describe().limits["likelihood_methods"] == ["bound", "ode"]
    with pytest.raises(UnsupportedTask, match="no differentiable export"):
        engine.model.differentiable("denoiser")


@pytest.mark.parametrize(
    "parameters",
    [
        {"probes": 2},
        {"solver": "rk4"},
        {"method": "ode", "samples": 2},
        {"method": "ode", "tolerance": 0.01},
        {"method": "ode", "solver": "dopri5", "steps": 8},
        {"method": "ode", "probes": 0},
        {"method": "ode", "probes": 65},
        {"method": "ode", "steps": 1001},
        {"method": "ode", "solver": "dopri5", "tolerance": 1e-9},
        {"method": "ode", "solver": "euler"},
        {"method": "exact"},
    ],
)
def test_what_would_have_no_effect_or_no_end_is_refused(parameters: dict[str, Any]) -> None:
    engine = ready(in_latents())
    with pytest.raises(InvalidParameter):
        engine.jobs(call("likelihood", images=[rgb()], **parameters))


def test_an_adaptive_solution_that_takes_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ode_flight, "ADAPTIVE_EVALUATIONS", 20)
    with pytest.raises(InvalidParameter, match="more than 20 network evaluations"):
        estimate(ready(in_latents()), rgb(), solver="dopri5", probes=1)


def broken_at(good: int, model: OpenedModel) -> OpenedModel:
    """The same model, whose gradients are not finite after a number of rows."""
    whole = model.differentiable("denoiser")
    assert isinstance(whole, WithGradients)
    calls = iter(range(10_000))

    class Broken(WithGradients):
        def _row(self, *args: Any) -> tuple[Tensor, Tensor]:
            value, product = super()._row(*args)
            return value, product * (math.nan if next(calls) >= good else 1.0)

    broken = Broken(whole._function, whole.inputs, list(whole.outputs))
    return replace(model, gradients={"denoiser": lambda: broken})


@pytest.mark.parametrize("solver", [{"steps": 4}, {"solver": "dopri5"}])
def test_an_evaluation_that_fails_leaves_every_row_as_it_was(solver: dict[str, Any]) -> None:
    engine = ready(broken_at(3, in_latents()))
    jobs = engine.jobs(call("likelihood", images=[rgb(), rgb(1)], method="ode", probes=2, **solver))
    batch: list[Any] = engine.prepare(jobs)
    before = [(t.x.clone(), t.log_det.clone(), t.index, t.slopes) for t in batch]
    with pytest.raises(EngineFailure, match="not finite"):
        engine.step(batch)
    for t, (x, log_det, index, slopes) in zip(batch, before, strict=True):
        assert torch.equal(t.x, x)
        assert torch.equal(t.log_det, log_det)
        assert (t.index, t.slopes) == (index, slopes)


def test_served_rows_answer_as_they_do_alone() -> None:
    """Through the loop, beside samplers' rows and bounds, and a long one that is withdrawn."""
    backend = InProcessBackend(
        Shelf({"tiny-diffusion": in_latents}),
        discover(),
        settings=PoolSettings(drain_seconds=0.0),
    )
    asked = [
        call(
            "likelihood",
            model="tiny-diffusion",
            images=[rgb(seed)],
            method="ode",
            steps=3 + seed,
            probes=2,
            seed=seed,
        )
        for seed in range(4)
    ]
    others = [
        call("generate", model="tiny-diffusion", steps=4, seed=1),
        call("likelihood", model="tiny-diffusion", images=[rgb(9)], steps=4),
    ]
    long = call(
        "likelihood", model="tiny-diffusion", images=[rgb()], method="ode", steps=150, probes=1
    )

    async def everything() -> list[Any]:
        withdrawn = asyncio.ensure_future(backend.run(long))
        answers = await asyncio.gather(*(backend.run(one) for one in (*asked, *others)))
        withdrawn.cancel()
        await asyncio.gather(withdrawn, return_exceptions=True)
        while (await backend.status())[0].trajectories:
            await asyncio.sleep(0.001)
        return answers[: len(asked)]

    try:
        answers = asyncio.run(asyncio.wait_for(everything(), 60))
    finally:
        backend.close()
    engine = ready(in_latents())
    for one, answer in zip(asked, answers, strict=True):
        alone: list[Result] = carry(engine, engine.jobs(one))
        assert dict(answer.items[0].values) == dict(alone[0].values)
