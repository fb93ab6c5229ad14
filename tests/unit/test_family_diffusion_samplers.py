"""Samplers and sigma schedules as requests ask for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from services.core.errors import InvalidManifest, InvalidParameter, UnsupportedTask
from services.core.network import OpenedModel
from services.core.parameters import Latents
from services.families.diffusion.options import DiffusionOptions
from services.sampling.samplers import samplers_for
from services.sampling.schedule import VariancePreserving
from tests.engines import RowByRow, ask, call, carry, floats, opened, pixels_of, ready, some_pixels
from tests.gaussian_data import SCHEDULES, GaussianData
from tests.tiny_models import tiny_diffusion

SAMPLERS = samplers_for(VariancePreserving())
SHAPE = (1, 8, 8)
STD = 0.3


def with_schedule(**schedule: Any) -> OpenedModel:
    """The tiny model with other settings of its schedule, predicting velocities."""
    model = tiny_diffusion()
    options = {
        "schedule": {"type": "variance_preserving", **schedule},
        "prediction_type": "v_prediction",
    }
    return replace(model, options={**model.options, **options})


@pytest.mark.parametrize(
    ("sampler", "more", "theirs"),
    [
        ("unipc", {}, diffusers.UniPCMultistepScheduler()),
        ("lms", {}, diffusers.LMSDiscreteScheduler()),
        ("pndm", {}, diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=True)),
        (
            "euler",
            {"sigma_schedule": "karras"},
            diffusers.EulerDiscreteScheduler(use_karras_sigmas=True),
        ),
        (
            "unipc",
            {"sigma_schedule": "karras"},
            diffusers.UniPCMultistepScheduler(use_karras_sigmas=True),
        ),
    ],
)
def test_an_engine_goes_the_way_of_diffusers_scheduler(
    sampler: str, more: dict[str, Any], theirs: Any
) -> None:
    kind, _ = SCHEDULES["variance_preserving"]
    network = GaussianData(STD, kind).network(SHAPE, "epsilon")
    engine = ready(
        opened(
            "diffusion",
            {"denoiser": network},
            resolution=SHAPE[1:],
            options={"schedule": kind.model_dump(), "prediction_type": "epsilon"},
        )
    )
    start = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    theirs.set_timesteps(9)
    x = start * theirs.init_noise_sigma
    for t in theirs.timesteps:
        output = network(x=theirs.scale_model_input(x, t), t=t.view(1))["output"]
        x = theirs.step(output, t, x).prev_sample
    latents = Latents.from_array(start[0].numpy()).model_dump()
    (found,) = engine.prepare(
        engine.jobs(call("generate", latents=latents, steps=9, sampler=sampler, **more))
    )
    while not found.finished:
        engine.step([found])
    assert torch.allclose(found.x, x[0].float(), atol=1e-3)


def test_samplers_and_levels_mix_and_leave_no_trace() -> None:
    engine = ready(tiny_diffusion())
    image = some_pixels(3, 8, 8)
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 2:5, 3:6] = 255
    asked = [("generate", {"sampler": s, "steps": 3 + i % 4}) for i, s in enumerate(SAMPLERS)]
    for i, name in enumerate(("karras", "exponential", "beta")):
        for sampler in ("euler", "unipc", "lms", "dpmpp_3m_sde"):
            fields = {"sampler": sampler, "sigma_schedule": name, "steps": 4 + i}
            asked.append(("generate", fields))
    for sampler in SAMPLERS:
        fields = {"sampler": sampler, "steps": 6, "images": [image], "strength": 0.7}
        asked += [("variation", fields), ("inpaint", {**fields, "mask": mask})]
    calls = [call(name, seed=i, **fields) for i, (name, fields) in enumerate(asked)]
    mixed = pixels_of(carry(engine, [job for one in calls for job in engine.jobs(one)]))
    for one, found in zip(calls, mixed, strict=True):
        (alone,) = pixels_of(carry(engine, engine.jobs(one)))
        assert np.array_equal(found, alone), one.parameters


def test_other_levels_make_another_image() -> None:
    engine = ready(tiny_diffusion())
    images = [
        pixels_of(ask(engine, "generate", seed=3, steps=5, sampler="euler", sigma_schedule=name))
        for name in (None, "karras", "exponential", "beta")
    ]
    assert len({np.stack(image).tobytes() for image in images}) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trajectory_remembers_no_more_than_its_plan_needs(sampler: str) -> None:
    engine = ready(tiny_diffusion())
    (found,) = engine.prepare(engine.jobs(call("generate", steps=8, sampler=sampler)))
    for _ in range(7):
        engine.step([found])
        assert len(found.past) <= found.plan.memory  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"sampler": "lcm", "steps": 51}, "steps", "from 1 to 50 with lcm"),
        ({"sampler": "ddim", "sigma_schedule": "karras"}, "sigma_schedule", "use one of euler"),
        ({"sampler": "euler", "sigma_schedule": "align_your_steps"}, "sigma_schedule", "manifest"),
        ({"sigma_schedule": "quadratic"}, "sigma_schedule", "'karras', 'exponential', 'beta'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ready(tiny_diffusion()).jobs(call("generate", **fields))
    assert caught.value.param == param
    assert words in caught.value.message


def test_a_model_says_which_samplers_and_levels_fit() -> None:
    limits = ready(tiny_diffusion()).describe().limits
    assert limits["samplers"] == list(SAMPLERS)
    assert limits["sigma_schedules"] == ["karras", "exponential", "beta"]
    stable = ready(with_schedule(beta_schedule="scaled_linear")).describe().limits
    assert stable["sigma_schedules"][-1] == "align_your_steps"
    zero = ready(with_schedule(rescale_betas_zero_snr=True))
    assert "pndm" not in zero.describe().limits["samplers"]


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_a_model_whose_first_level_has_no_signal_is_served(spacing: str) -> None:
    engine = ready(with_schedule(rescale_betas_zero_snr=True, timestep_spacing=spacing))
    for sampler in engine.describe().limits["samplers"]:
        (trajectory,) = engine.prepare(engine.jobs(call("generate", steps=4, sampler=sampler)))
        while not trajectory.finished:
            engine.step([trajectory])
        assert trajectory.x.isfinite().all(), sampler
    image = some_pixels(3, 8, 8)
    ask(engine, "variation", images=[image], steps=4, strength=1.0)
    ask(engine, "encode", images=[image], steps=4)
    assert np.isfinite(ask(engine, "likelihood", images=[image])[0].values["log_likelihood"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"schedule": {"type": "flow"}, "prediction_type": "epsilon"},
            "epsilon does not fit a flow schedule.*use flow, v_prediction or sample",
        ),
        (
            {
                "schedule": {"type": "variance_preserving", "rescale_betas_zero_snr": True},
                "prediction_type": "epsilon",
            },
            "epsilon does not fit rescale_betas_zero_snr",
        ),
        (
            {
                "schedule": {"type": "flow"},
                "prediction_type": "flow",
                "defaults": {"sampler": "pndm"},
            },
            "the default sampler pndm does not fit",
        ),
        (
            {"schedule": {"type": "variance_preserving", "trained_betas": [0.1]}},
            "trained_betas holds 1 values; give one for each of the 1000",
        ),
        ({"schedule": {"type": "flow"}, "defaults": {"sampler": "magic"}}, "sampler"),
    ],
)
def test_a_manifest_that_cannot_be_sampled_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidManifest, match=words):
        DiffusionOptions.read("a-model", options)


def exploding(sigma_max: float = 20.0) -> OpenedModel:
    """A score network of independent pixels ``N(0, STD^2)`` under noise that explodes."""

    def score(x: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"output": -x / (STD**2 + t.view(-1, 1, 1, 1) ** 2)}

    return opened(
        "diffusion",
        {"denoiser": RowByRow(score, {"x": floats(*SHAPE), "t": floats()}, ["output"])},
        resolution=SHAPE[1:],
        options={
            "schedule": {
                "type": "variance_exploding",
                "sigma_max": sigma_max,
                "sigma_min": 0.02,
                "langevin_steps": 10,
                "langevin_step_size": 8e-5,
            },
            "prediction_type": "score",
        },
    )


def test_a_score_network_under_exploding_noise_is_served() -> None:
    engine = ready(exploding())
    assert "pndm" not in engine.describe().limits["samplers"]
    for sampler in engine.describe().limits["samplers"]:
        found = pixels_of(ask(engine, "generate", n=8, steps=20, sampler=sampler, seed=1))
        x = np.stack(found).astype(float) / 255 * 2 - 1
        assert x.mean() == pytest.approx(0, abs=0.1), sampler
        assert x.std() == pytest.approx(STD, rel=0.3), sampler


def test_exploding_noise_edits_images_and_refuses_what_ends_in_unit_noise() -> None:
    engine = ready(exploding())
    image = some_pixels(*SHAPE)
    (near,) = pixels_of(
        ask(engine, "variation", images=[image], strength=0.1, steps=20, sampler="heun")
    )
    assert near.shape == SHAPE
    assert set(engine.operations()) & {"likelihood", "encode"} == set()
    with pytest.raises(UnsupportedTask):
        engine.jobs(call("likelihood", images=[image]))
    with pytest.raises(InvalidParameter, match=r"has no training times.*use one of euler"):
        engine.jobs(call("generate", sampler="ddim"))
