"""Guidance as an engine gives it: per row, in any mixture, at the cost of what each step needs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import EngineFailure, InvalidParameter
from services.core.images import ImageLimits
from services.core.job import Job
from services.core.network import OpenedModel
from services.core.trajectory import Trajectory
from services.families.diffusion import ENGINE
from services.families.diffusion.flights import Sampling
from services.runtime.loop import Loop
from services.runtime.observer import Silence
from services.runtime.registry import LoadedModel
from services.sampling.guidance import cosine_similarity, rescaled
from tests.engines import (
    CPU,
    RowByRow,
    ask,
    call,
    evaluated,
    floats,
    integers,
    opened,
    pixels_of,
    ready,
    some_pixels,
)
from tests.scripted import PATIENCE
from tests.tiny_models import tiny_diffusion

STEPS = 8
IMAGE = some_pixels(3, 8, 8, seed=3)
COMPOSED = [{"prompt": "red", "weight": 0.75}, {"prompt": "square", "weight": 0.25}]
EVERY_KIND: Sequence[tuple[str, dict[str, Any]]] = (
    ("generate", {"guidance_scale": 1.0}),
    ("generate", {"guidance_scale": 4.0}),
    ("generate", {"guidance_scale": 4.0, "negative_prompt": "green"}),
    ("generate", {"guidance_scale": 4.0, "guidance_interval": [0.25, 0.75]}),
    ("generate", {"guidance_scale": 6.0, "guidance_rescale": 0.7, "sampler": "ddpm"}),
    ("generate", {"guidance_scale": 3.0, "adaptive_guidance": 0.9}),
    ("generate", {"guidance_scale": 3.0, "prompts": COMPOSED}),
    ("generate", {"guidance_scale": 1.0, "prompts": COMPOSED, "sampler": "euler"}),
    ("generate", {"prompts": [{"prompt": "red"}, {"prompt": "circle", "weight": -0.5}]}),
    ("generate", {"variation_seed": 9, "variation_strength": 0.4, "n": 2}),
    ("variation", {"images": [IMAGE], "guidance_scale": 2.0, "guidance_interval": [0.0, 0.5]}),
    ("invert", {"images": [IMAGE], "source_prompt": "blue", "guidance_scale": 3.0}),
    ("invert", {"images": [IMAGE], "guidance_interval": [0.5, 1.0], "strength": 0.6}),
    ("outpaint", {"images": [IMAGE], "left": 3, "top": 1}),
    ("interpolate", {"n": 2, "prompts": COMPOSED}),
    ("likelihood", {"images": [IMAGE], "samples": 1}),
)


def jobs_of(engine: Engine, name: str, **what: Any) -> list[Job[Any]]:
    """The jobs of a call about something red unless it says otherwise."""
    told = {} if "prompts" in what else {"prompt": "red"}
    return engine.jobs(call(name, steps=what.pop("steps", STEPS), seed=5, **told, **what))


def flown(engine: Engine, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
    """Trajectories at their ends, all stepped together."""
    batch = engine.prepare(jobs)
    while unfinished := [t for t in batch if not t.finished]:
        engine.step(unfinished)
    return batch


def rows_of(engine: Engine, name: str, **what: Any) -> list[int]:
    """Network rows of each evaluation on the way of a single row."""
    before = len(evaluated(engine))
    flown(engine, jobs_of(engine, name, **what)[:1])
    return evaluated(engine)[before:]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ready(tiny_diffusion())


def test_a_mixed_batch_equals_each_row_alone_bitwise(engine: Engine) -> None:
    jobs = [job for name, what in EVERY_KIND for job in jobs_of(engine, name, **what)]
    together = flown(engine, jobs)
    backwards = flown(engine, jobs[::-1])[::-1]
    for job, first, second in zip(jobs, together, backwards, strict=True):
        (alone,) = flown(engine, [job])
        assert torch.equal(alone.x, first.x), (job.name, job.parameters)
        assert torch.equal(alone.x, second.x), (job.name, job.parameters)
        (result,), (expected,) = engine.decode([first]), engine.decode([alone])
        assert result.values == expected.values


def test_every_kind_of_guidance_makes_an_image_of_its_own(engine: Engine) -> None:
    images = [
        pixels_of(ask(engine, "generate", steps=STEPS, seed=5, **what))[0].tobytes()
        for what in (
            {"prompt": "red", **what} if "prompts" not in what else what
            for name, what in EVERY_KIND
            if name == "generate"
        )
    ]
    assert len(set(images)) == len(images)


def test_outside_of_its_interval_a_row_costs_one_branch(engine: Engine) -> None:
    found = rows_of(engine, "generate", guidance_scale=4.0, guidance_interval=[0.25, 0.75])
    assert found == [1, 1, 2, 2, 2, 2, 1, 1]
    found = rows_of(engine, "generate", guidance_scale=4.0, guidance_interval=[0.5, 1.0])
    assert found == [1, 1, 1, 1, 2, 2, 2, 2]


def test_an_interval_of_the_whole_way_is_none(engine: Engine) -> None:
    (whole,) = flown(engine, jobs_of(engine, "generate", guidance_interval=[0.0, 1.0]))
    (plain,) = flown(engine, jobs_of(engine, "generate"))
    assert torch.equal(whole.x, plain.x)


def test_before_its_interval_a_row_goes_the_unguided_way(engine: Engine) -> None:
    late, none = engine.prepare(
        [
            *jobs_of(engine, "generate", guidance_scale=4.0, guidance_interval=[0.5, 1.0]),
            *jobs_of(engine, "generate", guidance_scale=1.0),
        ]
    )
    for done in range(STEPS):
        assert torch.equal(late.x, none.x) == (done <= STEPS // 2)
        engine.step([late, none])


def test_a_trajectory_says_what_its_next_evaluation_takes(engine: Engine) -> None:
    (job,) = jobs_of(engine, "generate", guidance_scale=4.0, guidance_interval=[0.25, 0.75])
    assert engine.workload(job).rows == 2
    (flying,) = engine.prepare([job])
    found = []
    while not flying.finished:
        found.append(flying.rows)
        engine.step([flying])
    assert found == [1, 1, 2, 2, 2, 2, 1, 1]


def test_the_loop_counts_the_rows_that_a_step_really_takes() -> None:
    model = LoadedModel(ready(tiny_diffusion()), "1", ready=True)
    seen: list[int] = []

    class Watching(Silence):
        def evaluated(self, *what: Any) -> None:
            _, stage, rows, *_ = what
            if stage == "step":
                seen.append(rows)

    loop = Loop(threading.Lock(), observer=Watching())
    jobs = jobs_of(model.engine, "generate", guidance_scale=4.0, guidance_interval=[0.25, 0.75])
    (ticket,) = loop.submit(model, jobs)
    ticket.future.result(PATIENCE)
    loop.close()
    assert seen == [1, 1, 2, 2, 2, 2, 1, 1] == evaluated(model.engine)


def test_adaptive_guidance_drops_the_branch_once_both_agree(engine: Engine) -> None:
    assert rows_of(engine, "generate", guidance_scale=4.0, adaptive_guidance=-1.0) == [2] + [1] * 7
    assert rows_of(engine, "generate", guidance_scale=4.0, adaptive_guidance=1.0) == [2] * 8
    found = rows_of(engine, "generate", guidance_scale=4.0, adaptive_guidance=0.97)
    switch = found.index(1) if 1 in found else STEPS
    assert found == [2] * switch + [1] * (STEPS - switch)


def test_the_branch_is_dropped_by_the_similarity_of_the_two_outputs(engine: Engine) -> None:
    """Just below the first evaluation's similarity a threshold drops it, just above it does not."""
    (flying,) = engine.prepare(jobs_of(engine, "generate", sampler="ddim", steps=2))
    assert isinstance(flying, Sampling)
    told = flying.steering.branches_at(0)
    output = engine.model.networks["denoiser"](
        x=flying.x.expand(2, *flying.x.shape),
        t=torch.full((2,), flying.level.time),
        tokens=torch.stack([branch["tokens"] for branch in told]),
    )["output"]
    similarity = cosine_similarity(*output)
    what: dict[str, Any] = {"sampler": "ddim", "steps": 2}
    below = rows_of(engine, "generate", adaptive_guidance=similarity - 1e-4, **what)
    above = rows_of(engine, "generate", adaptive_guidance=similarity + 1e-4, **what)
    assert (below, above) == ([2, 1], [2, 2])


def test_a_step_that_fails_leaves_no_trace_in_what_was_agreed() -> None:
    model = tiny_diffusion()
    healthy = model.networks["denoiser"]
    broken = True

    def moody(**inputs: Tensor) -> Mapping[str, Tensor]:
        if broken:
            raise EngineFailure("not now")
        return healthy(**inputs)

    network = RowByRow(moody, healthy.inputs, ["output"])
    engine = ready(replace(model, networks={**model.networks, "denoiser": healthy}))
    engine.denoiser = network  # type: ignore[attr-defined]
    (flying,) = engine.prepare(jobs_of(engine, "generate", adaptive_guidance=-1.0))
    with pytest.raises(EngineFailure):
        engine.step([flying])
    assert flying.rows == 2
    broken = False
    engine.step([flying])
    assert flying.rows == 1


def one_step(engine: Engine, **what: Any) -> Tensor:
    """The state after a single step from noise: the combined prediction itself."""
    return flown(engine, jobs_of(engine, "generate", steps=1, sampler="ddim", **what))[0].x


@pytest.fixture(scope="module")
def predicting_images() -> Engine:
    model = tiny_diffusion()
    return ready(replace(model, options={**model.options, "prediction_type": "sample"}))


def test_prompts_are_composed_by_their_weights(predicting_images: Engine) -> None:
    red, square, nothing = (
        one_step(predicting_images, prompts=[{"prompt": p}], guidance_scale=1.0)
        for p in ("red", "square", "")
    )
    for scale in (1.0, 3.0):
        for first, second in ((0.75, 0.25), (1.0, 1.0), (1.5, -0.5), (1.0, -1.0)):
            prompts = [
                {"prompt": "red", "weight": first},
                {"prompt": "square", "weight": second},
            ]
            found = one_step(predicting_images, prompts=prompts, guidance_scale=scale)
            expected = nothing + scale * (first * (red - nothing) + second * (square - nothing))
            assert torch.allclose(found, expected, atol=1e-5)


def test_one_prompt_among_prompts_is_the_prompt(engine: Engine) -> None:
    listed = ask(engine, "generate", prompts=[{"prompt": "red"}], steps=4)
    single = ask(engine, "generate", prompt="red", steps=4)
    assert np.array_equal(pixels_of(listed), pixels_of(single))


@pytest.mark.parametrize(
    ("weights", "scale", "branches"),
    [([0.5, 0.5], 1.0, 2), ([0.5, 0.5], 4.0, 3), ([1.0, 1.0], 1.0, 3), ([0.2, 0.3, 0.5], 1.0, 3)],
)
def test_every_prompt_costs_a_branch(
    engine: Engine, weights: list[float], scale: float, branches: int
) -> None:
    prompts = [{"prompt": "red", "weight": weight} for weight in weights]
    found = rows_of(engine, "generate", prompts=prompts, guidance_scale=scale, sampler="euler")
    assert found == [branches] * STEPS
    (job,) = jobs_of(engine, "generate", prompts=prompts, guidance_scale=scale)
    assert engine.workload(job).rows == branches


def test_rescaling_gives_the_guided_output_the_conditional_ones_spread(
    predicting_images: Engine,
) -> None:
    conditional = one_step(predicting_images, guidance_scale=1.0)
    guided = one_step(predicting_images, guidance_scale=6.0)
    found = one_step(predicting_images, guidance_scale=6.0, guidance_rescale=0.7)
    assert torch.allclose(found, rescaled(guided, conditional, 0.7), atol=1e-6)
    full = one_step(predicting_images, guidance_scale=6.0, guidance_rescale=1.0)
    assert float(full.std()) == pytest.approx(float(conditional.std()), rel=1e-5)


def loud_in_pixels() -> OpenedModel:
    """A text model of pixels in [0, 1] whose guided predictions leave that range by far."""

    def predict(x: Tensor, t: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
        return {"output": x + tokens.float().sum() + t.float().view(-1, 1, 1, 1) * 0}

    inputs = {"x": floats(1, 4, 4), "t": floats(), "tokens": integers(1)}
    return opened(
        "diffusion",
        {"denoiser": RowByRow(predict, inputs, ["output"])},
        resolution=(4, 4),
        pixel_range=(0.0, 1.0),
        options={
            "schedule": {"type": "variance_preserving"},
            "prediction_type": "sample",
            "tokenizer": {"slots": {"color": {"values": ["red"]}}},
        },
    )


def test_a_dynamic_threshold_holds_the_pixels_of_its_row_alone_in_their_range() -> None:
    engine = ready(loud_in_pixels())
    what: dict[str, Any] = {"steps": 2, "sampler": "ddim", "guidance_scale": 8.0}
    free, held = flown(
        engine,
        [
            *jobs_of(engine, "generate", **what),
            *jobs_of(engine, "generate", dynamic_threshold=0.9, **what),
        ],
    )
    assert float(free.x.max()) > 2
    assert -1e-6 <= float(held.x.min()) < float(held.x.max()) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guidance_interval": [0.5, 0.5]}, "guidance_interval", "before the end"),
        ({"guidance_interval": [0.5]}, "guidance_interval", "at least 2"),
        ({"guidance_interval": [0.5, 1.5]}, "guidance_interval.1", "less than or equal to 1"),
        ({"guidance_rescale": 1.1}, "guidance_rescale", "less than or equal to 1"),
        ({"adaptive_guidance": 1.5}, "adaptive_guidance", "less than or equal to 1"),
        ({"dynamic_threshold": 0.0}, "dynamic_threshold", "greater than 0"),
        ({"dynamic_threshold": 0.99}, "dynamic_threshold", "latents, which have none"),
        ({"prompts": []}, "prompts", "at least 1"),
        ({"prompts": [{"prompt": "red"}] * 9}, "prompts", "at most 8"),
        ({"prompts": [{"prompt": "gloom"}]}, "prompts", "'gloom'"),
        ({"prompts": [{"prompt": "red"}], "prompt": "red"}, "prompts", "either prompts"),
        ({"prompts": [{"prompt": "red"}], "factors": {}}, "prompts", "either prompts"),
        ({"prompts": [{"prompt": "red", "weight": 11}]}, "prompts.0.weight", "or equal to 10"),
        (
            {"prompts": [{"prompt": "red"}, {"prompt": "circle"}], "adaptive_guidance": 0.9},
            "adaptive_guidance",
            "weights that sum to 1",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    engine: Engine, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        engine.jobs(call("generate", **fields))
    assert caught.value.param == param
    assert words in caught.value.message


def test_an_unconditional_model_has_nothing_to_compose() -> None:
    model = tiny_diffusion()
    options = {name: value for name, value in model.options.items() if name != "tokenizer"}
    engine = ENGINE(replace(model, options=options), CPU, ImageLimits())
    with pytest.raises(InvalidParameter, match="unconditional") as caught:
        engine.jobs(call("generate", prompts=[{"prompt": ""}]))
    assert caught.value.param == "prompts"
