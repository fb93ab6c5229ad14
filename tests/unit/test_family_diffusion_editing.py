"""Editing with a diffusion model: inversion, variations of a seed, blended prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.images import Pixels
from services.core.network import OpenedModel
from services.families.diffusion.flights import Sampling
from services.families.diffusion.steering import blended
from services.sampling.inversion import there_and_back
from services.sampling.plan import advanced
from services.sampling.samplers import make_plan
from services.sampling.schedule import Flow, VariancePreserving
from tests.engines import (
    RowByRow,
    ask,
    call,
    floats,
    integers,
    opened,
    pixels_of,
    ready,
    some_pixels,
)
from tests.gaussian_data import SCHEDULES, SHAPE, STD, GaussianData, in_pixels, typical
from tests.tiny_models import tiny_diffusion

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)


WHITE_NOISE_SAMPLERS = ("ddpm", "euler_ancestral", "dpmpp_2m_sde", "lcm")


def image(engine: Engine, name: str = "generate", **what: Any) -> Pixels:
    """The only image of a call."""
    (found,) = pixels_of(ask(engine, name, **what))
    return found


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m"])
@EVERY_SCHEDULE
def test_a_plan_climbs_through_the_levels_that_it_descends(schedule: str, sampler: str) -> None:
    kind, _ = SCHEDULES[schedule]
    descent = make_plan(sampler, kind, 12).from_step(4)
    plan, climb = there_and_back(kind, descent)
    assert len(plan) == climb + len(descent)
    level = np.stack([plan.alphas, plan.sigmas], 1)
    after = np.stack([plan.next_alphas, plan.next_sigmas], 1)
    ratio = level[:, 1] / np.maximum(level[:, 0], 1e-12)
    assert np.array_equal(after[:climb], level[1 : climb + 1])
    assert np.array_equal(level[climb], [descent.alphas[0], descent.sigmas[0]])
    assert (np.diff(ratio[: climb + 1]) > 0).all()
    visited = set(map(tuple, level[:climb].tolist()))
    assert set(map(tuple, level[climb + 1 :].tolist())) <= visited
    assert np.array_equal(plan.coefficients[climb:], descent.coefficients)
    assert set(plan.times[climb + 1 :].tolist()) <= set(plan.times[:climb].tolist())


class Walker:
    """A state that walks along a plan."""

    def __init__(self, plan: Any, x: Tensor) -> None:
        self.plan, self.x, self.index = plan, x, 0
        self.past: Sequence[tuple[Tensor, Tensor]] = ()

    def noise(self) -> Tensor:
        raise AssertionError("an inversion draws no noise")


@pytest.mark.parametrize("kind", [VariancePreserving(), Flow()], ids=["vp", "flow"])
def test_the_climb_follows_the_probability_flow(kind: Any) -> None:
    """For data N(0, s^2) the flow keeps x over the standard deviation of its level."""
    data = GaussianData(STD, kind)
    plan, climb = there_and_back(kind, make_plan("ddim", kind, 300))
    x_0 = torch.linspace(-2, 2, 9, dtype=torch.float64) * STD
    walker = Walker(plan, x_0 * float(plan.alphas[0]))

    def spread(i: int) -> float:
        return math.hypot(float(plan.alphas[i]) * STD, float(plan.sigmas[i]))

    while walker.index < climb:
        i = walker.index
        clean = data.denoise(walker.x, float(plan.alphas[i]), float(plan.sigmas[i]))
        walker.x = advanced([walker], clean[None])[0]
        walker.index += 1
    expected = x_0 * float(plan.alphas[0]) / spread(0) * spread(climb)
    assert torch.allclose(walker.x, expected, rtol=0.03)


@EVERY_SCHEDULE
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_there_and_back_under_the_same_prompt_is_nearly_the_image(
    schedule: str, strength: float
) -> None:
    engine, given = ready(in_pixels(schedule)), typical(6)
    errors = [
        np.abs(
            image(engine, "invert", images=[given], steps=steps, strength=strength).astype(int)
            - given
        ).mean()
        for steps in (10, 200)
    ]
    assert errors[1] < 4
    assert errors[1] < errors[0]
    assert errors[1] < 0.15 * given.std()


def test_the_way_there_is_unguided_and_the_way_back_is_guided() -> None:
    engine = ready(tiny_diffusion())
    (job,) = engine.jobs(
        call(
            "invert",
            images=[some_pixels(3, 8, 8)],
            prompt="red",
            steps=6,
            sampler="euler",
            guidance_scale=3.0,
            guidance_interval=[0.0, 0.5],
        )
    )
    (flying,) = engine.prepare([job])
    assert isinstance(flying, Sampling)
    climb = flying.steering.climb
    rows = []
    while not flying.finished:
        rows.append(flying.rows)
        engine.step([flying])
    assert climb in (5, 6)
    assert rows == [1] * climb + [2] * 3 + [1] * 3
    assert len(rows) == engine.workload(job).evaluations
    assert engine.workload(job).rows == 2


def test_the_source_prompt_is_heard_on_the_way_there_and_the_prompt_on_the_way_back() -> None:
    engine, given = ready(tiny_diffusion()), some_pixels(3, 8, 8, seed=2)

    def edited(**what: Any) -> Pixels:
        return image(engine, "invert", images=[given], steps=6, guidance_scale=1.0, **what)

    plain = edited(prompt="red", source_prompt="red")
    assert not np.array_equal(edited(prompt="blue", source_prompt="red"), plain)
    assert not np.array_equal(edited(prompt="red", source_prompt="blue"), plain)
    (other,) = engine.prepare(
        engine.jobs(call("invert", images=[given], source_prompt="blue square", prompt="red"))
    )
    assert isinstance(other, Sampling)
    (generated,) = engine.prepare(engine.jobs(call("generate", prompt="blue square")))
    assert torch.equal(other.steering.branches_at(0)[0]["tokens"], generated.condition["tokens"])


MEANS = (0.0, -0.4, 0.4)


def dark_or_bright() -> OpenedModel:
    """Pixels ``N(m, STD^2)`` around the mean of the prompt: 0, "dark" or "bright"."""
    data = GaussianData(STD, VariancePreserving())

    def predict(x: Tensor, t: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
        alpha, sigma = (float(level) for level in data.levels(t))
        mean = MEANS[int(tokens)]
        clean = mean + data.denoise(x.double() - alpha * mean, alpha, sigma)
        return {"output": clean.float()}

    inputs = {"x": floats(*SHAPE), "t": floats(), "tokens": integers(1)}
    return opened(
        "diffusion",
        {"denoiser": RowByRow(predict, inputs, ["output"])},
        resolution=SHAPE[1:],
        options={
            "schedule": {"type": "variance_preserving"},
            "prediction_type": "sample",
            "tokenizer": {"slots": {"light": {"values": ["dark", "bright"]}}},
        },
    )


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_an_inverted_image_keeps_all_that_both_prompts_share(strength: float) -> None:
    """Noise is what an image has beyond its prompt's mean, so an edit moves it by their distance.

    Exactly so only from pure noise; with less of the way, the nearer image stays nearer.
    """
    engine = ready(dark_or_bright())
    pattern = np.clip(STD * np.random.default_rng(1).standard_normal(SHAPE), -0.5, 0.5)
    given = ((pattern - 0.4 + 1) / 2 * 255).round().clip(0, 255).astype(np.uint8)
    what: dict[str, Any] = {"guidance_scale": 1.0, "steps": 200, "strength": strength}
    found = image(engine, "invert", images=[given], source_prompt="dark", prompt="bright", **what)
    moved = found.astype(float) - given
    if strength == 1.0:
        assert np.abs(moved - 0.8 / 2 * 255).max() < 6
    else:
        assert 20 < moved.mean() < 0.8 / 2 * 255 - 1
    assert moved.std() < 3


def test_an_inversion_does_not_depend_on_the_seed() -> None:
    engine, given = ready(in_pixels()), typical(3)
    first, second = (image(engine, "invert", images=[given], steps=5, seed=s) for s in (1, 2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("sampler", WHITE_NOISE_SAMPLERS)
def test_a_sampler_that_adds_noise_cannot_bring_an_image_back(sampler: str) -> None:
    with pytest.raises(InvalidParameter, match="use one that adds none: ddim") as caught:
        ready(tiny_diffusion()).jobs(
            call("invert", images=[some_pixels(3, 8, 8)], sampler=sampler, steps=4)
        )
    assert caught.value.param == "sampler"


def test_a_single_step_of_the_least_noise_is_a_way_there_and_back() -> None:
    engine, given = ready(in_pixels("variance_preserving")), typical(5)
    found = image(engine, "invert", images=[given], steps=20, strength=0.01)
    assert np.abs(found.astype(int) - given).mean() < 2


def test_a_decoder_alone_offers_neither_outpaint_nor_invert() -> None:
    model = tiny_diffusion()
    networks = {name: model.networks[name] for name in ("denoiser", "decoder")}
    engine = ready(replace(model, networks=networks))
    for name in ("outpaint", "invert"):
        with pytest.raises(UnsupportedTask):
            engine.jobs(call(name, images=[some_pixels(3, 8, 8)]))


def test_variations_lead_from_the_image_of_one_seed_to_that_of_another() -> None:
    engine = ready(tiny_diffusion())
    what: dict[str, Any] = {"prompt": "red", "steps": 5, "sampler": "ddim"}

    def varied(strength: float) -> Pixels:
        return image(engine, seed=3, variation_seed=8, variation_strength=strength, **what)

    assert np.array_equal(varied(0.0), image(engine, seed=3, **what))
    assert np.array_equal(varied(1.0), image(engine, seed=8, **what))
    start = varied(0.0).astype(int)
    distances = [np.abs(varied(s).astype(int) - start).mean() for s in (0.1, 0.4, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_a_set_of_variations_shares_its_seed_and_counts_the_other() -> None:
    engine = ready(tiny_diffusion())
    what: dict[str, Any] = {"variation_strength": 0.3, "seed": 3, "steps": 3, "prompt": "red"}
    together = ask(engine, "generate", variation_seed=8, n=3, **what)
    assert [result.values for result in together] == [
        {"seed": 3, "variation_seed": 8 + i} for i in range(3)
    ]
    for i, result in enumerate(pixels_of(together)):
        assert np.array_equal(result, image(engine, variation_seed=8 + i, **what))


def test_varied_noise_is_as_likely_as_noise_and_latents_can_be_varied() -> None:
    engine = ready(in_pixels())
    what: dict[str, Any] = {"variation_seed": 8, "variation_strength": 0.5}
    jobs = engine.jobs(call("generate", seed=3, n=50, **what))
    norms = [float(t.x.norm()) for t in engine.prepare(jobs)]
    assert np.mean(norms) == pytest.approx(8.0, rel=0.05)
    (given,) = ask(engine, "encode", images=[typical()], steps=4)
    latents = given.values["latents"]
    one, other = engine.prepare(
        [
            *engine.jobs(call("generate", latents=latents, **what)),
            *engine.jobs(call("generate", latents=latents)),
        ]
    )
    assert not torch.equal(one.x, other.x)


@pytest.mark.parametrize("fields", [{"variation_seed": 1}, {"variation_strength": 0.5}])
def test_a_variation_needs_a_seed_and_a_strength(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="given together"):
        ready(tiny_diffusion()).jobs(call("generate", **fields))


def test_prompts_of_single_words_have_nothing_between_them() -> None:
    with pytest.raises(InvalidParameter, match="prompts with weights") as caught:
        ready(tiny_diffusion()).jobs(call("interpolate", prompt="red", end_prompt="blue"))
    assert caught.value.param == "end_prompt"


def speaking() -> OpenedModel:
    """A model whose prompts are numbers: the lengths of their words."""

    def encode(prompt: str, *, negative: bool = False) -> Mapping[str, Tensor]:
        lengths = [float(len(word)) for word in prompt.split()][:2]
        return {"words": torch.tensor(lengths + [0.0] * (2 - len(lengths)))}

    def predict(x: Tensor, t: Tensor, words: Tensor) -> Mapping[str, Tensor]:
        shift = words.view(-1, 2, 1, 1).mean(1, keepdim=True)
        return {"output": torch.tanh(x + 0.1 * shift) + 0 * t.view(-1, 1, 1, 1)}

    inputs = {"x": floats(1, 4, 4), "t": floats(), "words": floats(2)}
    model = opened(
        "diffusion",
        {"denoiser": RowByRow(predict, inputs, ["output"])},
        resolution=(4, 4),
        options={
            "schedule": {"type": "variance_preserving"},
            "conditioning": {"type": "prompt", "inputs": ["words"]},
        },
    )
    return replace(model, open_prompt_encoder=lambda: encode)


def test_frames_between_two_prompts_begin_and_end_at_them() -> None:
    engine = ready(speaking())
    what: dict[str, Any] = {"sampler": "ddim", "steps": 4}
    frames = ask(
        engine, "interpolate", prompt="a bird", end_prompt="elephants", seeds=[2, 2], n=5, **what
    )
    path = pixels_of(frames)
    assert np.array_equal(path[0], image(engine, prompt="a bird", seed=2, **what))
    assert np.array_equal(path[-1], image(engine, prompt="elephants", seed=2, **what))
    batch = engine.prepare(
        engine.jobs(call("interpolate", prompt="a bird", end_prompt="elephants", n=5, **what))
    )
    told = [t.condition["words"].tolist() for t in batch]
    assert told == [[1, 4], [3, 3], [5, 2], [7, 1], [9, 0]]


def test_an_end_prompt_goes_with_a_prompt_alone() -> None:
    with pytest.raises(InvalidParameter, match="goes with prompt") as caught:
        ready(speaking()).jobs(
            call("interpolate", prompts=[{"prompt": "a"}, {"prompt": "b"}], end_prompt="c")
        )
    assert caught.value.param == "end_prompt"


def test_what_is_no_number_between_two_prompts_is_the_nearer_ones() -> None:
    start = {"words": torch.tensor([0.0, 4.0]), "mask": torch.tensor([1, 0])}
    end = {"words": torch.tensor([2.0, 0.0]), "mask": torch.tensor([1, 1])}
    quarter, most = blended(start, end, 0.25), blended(start, end, 0.75)
    assert quarter["words"].tolist() == [0.5, 3.0]
    assert quarter["mask"].tolist() == [1, 0]
    assert most["mask"].tolist() == [1, 1]
    assert blended(start, end, 0.0) is start
    assert blended(start, end, 1.0) is end
