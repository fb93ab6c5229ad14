"""The diffusion engine over analytic denoisers: images, edits and refusals in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.errors import (
    EngineFailure,
    InvalidManifest,
    InvalidNetwork,
    InvalidParameter,
    UnsupportedTask,
)
from services.core.images import Pixels
from services.core.parameters import Latents
from services.sampling.samplers import samplers_for
from services.sampling.schedule import Flow, VariancePreserving
from tests.engines import (
    RowByRow,
    ask,
    call,
    evaluated,
    floats,
    pixels_of,
    ready,
    some_pixels,
)
from tests.gaussian_data import SCHEDULES, SHAPE, STD, GaussianData, in_pixels, typical
from tests.linear_latents import GAIN, LATENT_STD, SHIFT, in_latents
from tests.tiny_models import tiny_diffusion

ANCESTRAL = ("ddpm", "euler_ancestral", "predictor_corrector")


EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)


def test_samples_in_latents_have_the_decoded_moments() -> None:
    engine = ready(in_latents())
    images = pixels_of(ask(engine, "generate", n=64, steps=20, sampler="euler", seed=3))
    values = np.array([image.item() for image in images], float)
    std = GAIN * 2 * LATENT_STD
    assert values.mean() == pytest.approx(GAIN * 0.5 + SHIFT, abs=4 * std / 8)
    assert values.std() == pytest.approx(std, rel=0.3)


@pytest.mark.parametrize(
    ("sampler", "theirs"),
    [
        ("ddim", diffusers.DDIMScheduler(clip_sample=False)),
        ("euler", diffusers.EulerDiscreteScheduler()),
        ("heun", diffusers.HeunDiscreteScheduler(beta_start=0.0001, beta_end=0.02)),
        ("dpmpp_2m", diffusers.DPMSolverMultistepScheduler()),
    ],
)
def test_an_engine_goes_the_way_of_diffusers_scheduler(sampler: str, theirs: Any) -> None:
    engine = ready(in_pixels("variance_preserving"))
    start = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    theirs.set_timesteps(9)
    x = start * theirs.init_noise_sigma
    network = GaussianData(STD, SCHEDULES["variance_preserving"][0]).network(SHAPE, "epsilon")
    for t in theirs.timesteps:
        output = network(x=theirs.scale_model_input(x, t), t=t.view(1))["output"]
        x = theirs.step(output, t, x).prev_sample
    latents = Latents.from_array(start[0].numpy()).model_dump()
    (found,) = engine.prepare(
        engine.jobs(call("generate", latents=latents, steps=9, sampler=sampler))
    )
    while not found.finished:
        engine.step([found])
    assert torch.allclose(found.x, x[0].float(), atol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        (sampler, schedule)
        for schedule, (kind, _) in SCHEDULES.items()
        for sampler in samplers_for(kind)
        if sampler != "lcm"  # its network is a distilled one, which is no denoiser
    ],
)
def test_samples_have_the_datas_moments(sampler: str, schedule: str) -> None:
    engine = ready(in_pixels(schedule))
    images = pixels_of(ask(engine, "generate", n=12, steps=40, sampler=sampler, seed=1))
    x = np.stack(images).astype(float) / 255 * 2 - 1
    assert x.mean() == pytest.approx(0, abs=5 * STD / math.sqrt(x.size))
    # The ancestral steps' own variance is the smaller of Ho et al.'s two choices: it narrows.
    assert x.std() == pytest.approx(STD, rel=0.25 if sampler in ANCESTRAL else 0.12)


def test_n_images_are_those_of_consecutive_seeds() -> None:
    engine = ready(tiny_diffusion())
    several = ask(engine, "generate", n=3, seed=10, prompt="red", sampler="ddpm")
    assert [result.values["seed"] for result in several] == [10, 11, 12]
    single = [
        ask(engine, "generate", seed=seed, prompt="red", sampler="ddpm")[0] for seed in (10, 11, 12)
    ]
    assert np.array_equal(pixels_of(several), pixels_of(single))


def test_the_weaker_a_variation_the_nearer_it_stays() -> None:
    engine, image = ready(in_pixels()), typical(4)
    distances = []
    for strength in (0.05, 0.3, 1.0):
        found = pixels_of(
            ask(engine, "variation", images=[image], strength=strength, steps=40, n=8)
        )
        distances.append(float(np.abs(np.stack(found).astype(int) - image).mean()))
    assert distances[0] < 8
    assert distances[0] < distances[1] / 2 < distances[2] / 3
    assert distances[2] == pytest.approx(127.5 * STD * 2 / math.sqrt(math.pi), rel=0.2)


def test_a_variation_costs_its_share_of_the_steps() -> None:
    engine = ready(in_pixels())
    for strength, steps in ((0.5, 10), (0.01, 1), (1.0, 20)):
        before = len(evaluated(engine))
        ask(engine, "variation", images=[typical()], strength=strength, steps=20, sampler="euler")
        assert len(evaluated(engine)) - before == steps


@pytest.mark.parametrize(
    ("build", "sampler"),
    [(in_pixels, name) for name in samplers_for(Flow())]
    + [(tiny_diffusion, name) for name in samplers_for(VariancePreserving())],
)
def test_inpainting_keeps_what_is_not_marked_to_the_pixel(build: Any, sampler: str) -> None:
    engine = ready(build())
    channels, (height, width) = engine.model.channels, engine.model.resolution
    image = some_pixels(channels, height, width, seed=5)
    mask = np.zeros((1, height, width), np.uint8)
    mask[0, 2:5, 3:6] = 255
    found = pixels_of(
        ask(engine, "inpaint", images=[image], mask=mask, steps=6, sampler=sampler, n=2)
    )
    for result in found:
        kept = np.broadcast_to(mask == 0, image.shape)
        assert np.array_equal(result[kept], image[kept])
        assert not np.array_equal(result[~kept], image[~kept])
    assert not np.array_equal(found[0], found[1])


def test_what_is_inpainted_belongs_to_its_surroundings() -> None:
    """Over data whose pixels are one value each, the marked ones take the value of the others."""

    def constant(x: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        sigma = float(t)
        clean = x.mean() / max(1 - sigma, 1e-3) if sigma < 1 else torch.tensor(0.0)
        return {"output": clean.expand_as(x)}

    model = in_pixels()
    network = RowByRow(constant, {"x": floats(*SHAPE), "t": floats()}, ["output"])
    options = {**model.options, "prediction_type": "sample"}
    engine = ready(replace(model, networks={"denoiser": network}, options=options))
    image = np.full(SHAPE, 200, np.uint8)
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 3:5, 3:5] = 255
    found = pixels_of(ask(engine, "inpaint", images=[image], mask=mask, steps=50, sampler="euler"))
    assert np.abs(found[0].astype(int) - 200).max() <= 12


@EVERY_SCHEDULE
def test_an_encoding_comes_back_nearly_as_its_image(schedule: str) -> None:
    engine, image = ready(in_pixels(schedule)), typical(6)
    encoded = ask(engine, "encode", images=[image], steps=200)[0].values
    assert encoded["kind"] == "noise"
    z = Latents(**encoded["latents"]).array()
    assert z.std() == pytest.approx(1, rel=0.25)
    again = pixels_of(
        ask(engine, "generate", latents=encoded["latents"], steps=200, sampler="ddim")
    )[0]
    error = np.abs(again.astype(int) - image.astype(int))
    assert error.mean() < 4
    assert error.mean() < 0.15 * image.std()


def test_a_path_between_seeds_begins_and_ends_at_their_images() -> None:
    engine = ready(tiny_diffusion())
    path = pixels_of(
        ask(engine, "interpolate", seeds=[3, 8], n=4, prompt="blue square", sampler="ddim")
    )
    ends = [
        pixels_of(ask(engine, "generate", seed=seed, prompt="blue square", sampler="ddim"))[0]
        for seed in (3, 8)
    ]
    assert np.array_equal([path[0], path[-1]], ends)
    assert not np.array_equal(path[1], path[2])


@pytest.mark.parametrize(("scale", "branches"), [(1.0, 1), (3.0, 2), (0.0, 2), (None, 2)])
def test_an_unguided_row_costs_one_branch_and_a_guided_one_two(
    scale: float | None, branches: int
) -> None:
    engine = ready(tiny_diffusion())
    what = call("generate", prompt="red", guidance_scale=scale, steps=3, sampler="euler")
    ask(engine, "generate", **what.parameters)
    assert evaluated(engine) == [branches] * 3
    assert engine.workload(engine.jobs(what)[0]).rows == branches


def test_an_unconditional_model_is_never_guided() -> None:
    engine = ready(in_pixels())
    ask(engine, "generate", steps=2, sampler="euler")
    ask(engine, "generate", steps=2, sampler="euler", guidance_scale=7.0)
    assert evaluated(engine) == [1, 1, 1, 1]


def test_guidance_moves_the_image_from_the_unconditional_through_the_conditional() -> None:
    """After one step from noise the image is the guided prediction itself."""
    model = tiny_diffusion()
    engine = ready(replace(model, options={**model.options, "prediction_type": "sample"}))
    x = {}
    for scale in (0.0, 1.0, 2.0):
        jobs = engine.jobs(
            call("generate", prompt="green", guidance_scale=scale, steps=1, sampler="ddim")
        )
        batch = engine.prepare(jobs)
        engine.step(batch)
        x[scale] = batch[0].x
    assert torch.allclose(x[2.0], 2 * x[1.0] - x[0.0], atol=1e-5)
    assert not torch.allclose(x[1.0], x[0.0], atol=1e-3)


def test_the_prompt_is_heard_in_any_order_and_in_synonyms() -> None:
    engine = ready(tiny_diffusion())

    def image(prompt: str = "", **more: Any) -> Pixels:
        return pixels_of(ask(engine, "generate", prompt=prompt, seed=2, **more))[0]

    first = image("a red circle")
    assert np.array_equal(image("Circle, crimson!"), first)
    assert np.array_equal(image(factors={"shape": "circle", "color": "crimson"}), first)
    assert not np.array_equal(image("a blue circle"), first)
    assert not np.array_equal(image(""), first)


def test_a_negative_prompt_is_heard_where_there_is_guidance() -> None:
    engine = ready(tiny_diffusion())

    def image(negative: str, scale: float) -> Pixels:
        what = {"prompt": "red", "negative_prompt": negative, "guidance_scale": scale}
        return pixels_of(ask(engine, "generate", seed=2, **what))[0]

    assert not np.array_equal(image("square", 4.0), image("", 4.0))
    assert np.array_equal(image("square", 1.0), image("", 1.0))
    assert np.array_equal(image("red", 4.0), image("red", 1.0))


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": "a purple circle"}, "prompt", "does not know the word 'purple'"),
        ({"prompt": "a circl"}, "prompt", "did you mean circle"),
        ({"negative_prompt": "gloom"}, "negative_prompt", "'gloom'"),
        ({"prompt": "red blue"}, "prompt", "two values of color: red and blue"),
        ({"factors": {"size": "large"}}, "factors", "unknown factor 'size'; known are color"),
        ({"factors": {"color": "mauve"}}, "factors", "'mauve' is no color; known are red, green"),
        ({"factors": {"color": "red"}, "prompt": "red"}, "factors", "either prompt or factors"),
        ({"sampler": "magic"}, "sampler", "'ddpm', 'ddim'"),
        ({"steps": 1001}, "steps", "less than or equal to 1000"),
        ({"steps": 0}, "steps", "greater than or equal to 1"),
        ({"guidance_scale": 51}, "guidance_scale", "less than or equal to 50"),
        ({"prompt": "x" * 2001}, "prompt", "at most 2000 characters"),
        ({"strength": 0.5}, "strength", "unknown field 'strength'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ready(tiny_diffusion()).jobs(call("generate", **fields))
    assert caught.value.param == param
    assert words in caught.value.message


def test_more_steps_than_the_schedule_has_are_refused() -> None:
    model = tiny_diffusion()
    schedule = {"type": "variance_preserving", "num_train_timesteps": 50}
    engine = ready(replace(model, options={**model.options, "schedule": schedule}))
    image = some_pixels(3, 8, 8)
    for name, steps, more in (
        ("generate", 51, {"sampler": "euler"}),
        ("generate", 50, {"sampler": "dpmpp_2m"}),
        ("variation", 51, {"images": [image], "sampler": "ddim"}),
        ("likelihood", 50, {"images": [image]}),
        ("encode", 50, {"images": [image]}),
    ):
        with pytest.raises(InvalidParameter, match=r"steps must be .*(50|49)") as caught:
            engine.jobs(call(name, steps=steps, **more))
        assert caught.value.param == "steps"
        engine.jobs(call(name, steps=steps - 1, **more))


def test_images_and_masks_come_exactly_where_they_are_needed() -> None:
    engine = ready(tiny_diffusion())
    image, mask = some_pixels(3, 8, 8), np.full((1, 8, 8), 255, np.uint8)
    for what, param in (
        (call("generate", images=[image]), "images"),
        (call("variation"), "images"),
        (call("inpaint", images=[image]), "mask"),
        (call("variation", images=[image], mask=mask), "mask"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            engine.jobs(what)
        assert caught.value.param == param


def test_an_unconditional_model_takes_no_prompt() -> None:
    engine = ready(in_pixels())
    for name in ("prompt", "negative_prompt"):
        with pytest.raises(InvalidParameter, match="unconditional") as caught:
            engine.jobs(call("generate", **{name: "red"}))
        assert caught.value.param == name


def test_a_decoder_alone_generates_and_offers_nothing_that_needs_the_encoder() -> None:
    model = tiny_diffusion()
    networks = {name: model.networks[name] for name in ("denoiser", "decoder")}
    engine = ready(replace(model, networks=networks))
    assert set(engine.operations()) == {"generate", "interpolate"}
    with pytest.raises(UnsupportedTask, match="offers generate, interpolate"):
        engine.jobs(call("likelihood", images=[some_pixels(3, 8, 8)]))
    assert len(pixels_of(ask(engine, "generate", steps=2))) == 1


def test_a_model_says_what_it_can_do() -> None:
    info = ready(tiny_diffusion()).describe()
    assert info.conditioning == ("text",)
    assert info.likelihood == "lower_bound"
    assert info.limits["samplers"] == list(samplers_for(VariancePreserving()))
    assert info.limits["max_steps"] == 1000
    with pytest.raises(UnsupportedTask, match="encode the image and generate"):
        ready(tiny_diffusion()).jobs(call("reconstruct", images=[some_pixels(3, 8, 8)]))


def test_manifests_and_networks_that_do_not_fit_are_told_why() -> None:
    model = tiny_diffusion()
    with pytest.raises(InvalidManifest, match="schedule"):
        ready(replace(model, options={}))
    with pytest.raises(InvalidNetwork, match=r"lacks \['tokens'\]"):
        ready(replace(model, networks={**model.networks, **in_pixels().networks}))
    with pytest.raises(InvalidNetwork, match="needs a network 'decoder'"):
        ready(replace(model, networks={"denoiser": model.networks["denoiser"]}))


def test_values_that_are_not_finite_are_never_answered() -> None:
    def broken(x: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        return {"output": x * torch.nan}

    network = RowByRow(broken, {"x": floats(*SHAPE), "t": floats()}, ["output"])
    engine = ready(replace(in_pixels(), networks={"denoiser": network}))
    for name, more in (
        ("generate", {"steps": 2}),
        ("likelihood", {"steps": 2, "images": [typical()]}),
        ("encode", {"steps": 2, "images": [typical()]}),
    ):
        with pytest.raises(EngineFailure, match="not finite"):
            ask(engine, name, **more)
