"""An imported diffusers folder makes what diffusers' own pipeline makes from the same noise."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

from services.core.engine import Engine
from services.core.errors import InvalidParameter
from services.families import discover
from services.families.diffusion.engine import DiffusionEngine
from services.families.diffusion.parameters import Generate
from services.serving.in_process import InProcessBackend, PoolSettings
from services.serving.store_source import StoreSource
from tests import tiny_pipelines
from tests.engines import ask, call, some_pixels
from tests.pipeline_shelf import LATENTS, PIXELS, THREADS, Make, Shelf, generator, ours


def of(shelf: Shelf, name: str) -> tuple[Any, Engine]:
    """One of `TEXT`."""
    like = "sd-ddim" if name.startswith("sd-") and name != "sd-ddim" else None
    if like is not None:
        of(shelf, like)
    return shelf.get(name, TEXT[name][0], like=like)


def with_scheduler(kind: Any, **changes: Any) -> Make:
    scheduler = tiny_pipelines.stable_scheduler(kind, **changes)
    return lambda folder: tiny_pipelines.stable_diffusion(folder, scheduler=scheduler)


TEXT: dict[str, tuple[Make, dict[str, Any]]] = {
    "sd-ddim": (with_scheduler(diffusers.DDIMScheduler), {"guidance_scale": 7.5}),
    "sd-velocity": (
        with_scheduler(diffusers.DDIMScheduler, prediction_type="v_prediction"),
        {"guidance_scale": 4.0, "negative_prompt": "a blurry dog"},
    ),
    "sd-euler": (
        with_scheduler(diffusers.EulerDiscreteScheduler, timestep_spacing="leading"),
        {"guidance_scale": 1.0},
    ),
    "sd-multistep": (
        with_scheduler(diffusers.DPMSolverMultistepScheduler, timestep_spacing="linspace"),
        {"guidance_scale": 3.0, "negative_prompt": "ugly"},
    ),
    "sd-karras": (
        with_scheduler(diffusers.EulerDiscreteScheduler, use_karras_sigmas=True),
        {"guidance_scale": 2.0},
    ),
    "sd-stochastic": (
        with_scheduler(
            diffusers.DPMSolverMultistepScheduler,
            algorithm_type="sde-dpmsolver++",
            final_sigmas_type="sigma_min",
        ),
        {"guidance_scale": 2.0},
    ),
    "sd-pndm": (with_scheduler(diffusers.PNDMScheduler), {"guidance_scale": 7.5}),
    "sdxl": (tiny_pipelines.stable_diffusion_xl, {"guidance_scale": 5.0}),
    "pixart": (
        tiny_pipelines.pixart,
        {"guidance_scale": 4.5, "negative_prompt": "ugly"},
    ),
    "pixart-sigma": (tiny_pipelines.pixart_sigma, {"guidance_scale": 4.5}),
    "sd3": (tiny_pipelines.stable_diffusion_3, {"guidance_scale": 7.0}),
    "sd3-small": (
        partial(tiny_pipelines.stable_diffusion_3, t5=False),
        {"guidance_scale": 5.0, "negative_prompt": "ugly"},
    ),
    "flux-dev": (tiny_pipelines.flux, {"guidance_scale": 3.5}),
    "flux-schnell": (partial(tiny_pipelines.flux, guided=False), {}),
}
OWN: dict[str, dict[str, Any]] = {
    "pixart": {"use_resolution_binning": False, "clean_caption": False},
    "pixart-sigma": {"use_resolution_binning": False, "clean_caption": False},
    "sd3": {},
    "flux-dev": {"height": 16, "width": 16},
    "flux-schnell": {"height": 16, "width": 16},
}
"""What only diffusers' pipeline is to be told."""


LARGE = {"sdxl", "pixart", "pixart-sigma", "sd3", "sd3-small", "flux-dev", "flux-schnell"}
CASES = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in TEXT]


@pytest.mark.parametrize("name", CASES)
def test_a_prompt_makes_the_pipelines_own_image(shelf: Shelf, name: str) -> None:
    told = TEXT[name][1]
    pipeline, engine = of(shelf, name)
    asked = {"prompt": "a red cat on the moon", **told}
    state, image = ours(engine, steps=5, seed=11, **asked)
    theirs = {"num_inference_steps": 5, **asked, **OWN.get(name, {})}
    latents = pipeline(generator=generator(11), output_type="latent", **theirs).images[0]
    if latents.dim() == 2:  # packed
        latents = latents.view(4, 4, 4, 2, 2).permute(2, 0, 3, 1, 4).reshape(4, 8, 8)
    assert latents.abs().max() > 0.1
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)
    (wanted,) = pipeline(generator=generator(11), output_type="np", **theirs).images
    assert np.abs(image - wanted).max() <= PIXELS


@pytest.mark.parametrize("name", [c for c in CASES if c.values[0] != "flux-schnell"])
def test_what_is_said_is_heard(shelf: Shelf, name: str) -> None:
    _, engine = of(shelf, name)
    cat, _ = ours(engine, prompt="a red cat", steps=2)
    dog, _ = ours(engine, prompt="the blue dog", steps=2)
    louder, _ = ours(engine, prompt="a red cat", steps=2, guidance_scale=9.0)
    assert not torch.equal(cat, dog)
    assert not torch.equal(cat, louder)


def test_a_folders_levels_hold_unless_a_request_says_otherwise(shelf: Shelf) -> None:
    _, engine = of(shelf, "sd-karras")
    assert isinstance(engine, DiffusionEngine)
    assert engine.describe().limits["defaults"]["sigma_schedule"] == "karras"

    def times(**asked: Any) -> list[float]:
        plan, _ = engine.reader.plan(Generate(steps=6, **asked))
        return list(plan.times)

    assert times() == times(sigma_schedule="karras")
    assert times(sampler="dpmpp_2m") == times(sampler="dpmpp_2m", sigma_schedule="karras")
    assert times(sigma_schedule=None) != times()
    assert times(sampler="ddim") == times(sampler="ddim", sigma_schedule=None)


@pytest.mark.slow
def test_aligned_steps_of_an_sdxl_folder_are_those_of_sdxl(shelf: Shelf) -> None:
    _, engine = of(shelf, "sdxl")
    assert isinstance(engine, DiffusionEngine)
    asked = Generate(steps=10, sampler="euler", sigma_schedule="align_your_steps")
    plan, _ = engine.reader.plan(asked)
    published = AysSchedules["StableDiffusionXLSigmas"][:-1]
    np.testing.assert_allclose(plan.sigmas / plan.alphas, published, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("label", [1, "dog"])
def test_a_label_makes_the_pipelines_own_image(shelf: Shelf, label: int | str) -> None:
    pipeline, engine = shelf.get("dit", tiny_pipelines.dit)
    _, image = ours(engine, label=label, steps=5, seed=7, guidance_scale=4.0)
    (wanted,) = pipeline(
        [1], generator=generator(7), guidance_scale=4.0, num_inference_steps=5, output_type="np"
    ).images
    assert np.abs(image - wanted).max() <= PIXELS
    assert engine.describe().labels[:3] == ("cat", "dog", "class 2")
    with pytest.raises(InvalidParameter, match="out of range"):
        engine.jobs(call("generate", label=1000))
    with pytest.raises(InvalidParameter, match="no prompt"):
        engine.jobs(call("generate", prompt="a cat"))


@pytest.mark.slow
def test_an_empty_negative_prompt_is_silence_to_sdxl_and_words_are_not(shelf: Shelf) -> None:
    pipeline, engine = of(shelf, "sdxl")
    asked = {"prompt": "a cat", "guidance_scale": 5.0, "negative_prompt": "ugly"}
    state, _ = ours(engine, steps=3, seed=11, **asked)
    theirs = pipeline(
        generator=generator(11), num_inference_steps=3, output_type="latent", **asked
    ).images[0]
    torch.testing.assert_close(state, theirs, atol=LATENTS, rtol=1e-4)


@pytest.mark.parametrize("clip", [False, True])
def test_an_unconditional_model_makes_the_pipelines_own_image(shelf: Shelf, clip: bool) -> None:
    shelf.get("ddpm", tiny_pipelines.ddpm)
    scheduler = diffusers.DDPMScheduler(clip_sample=clip)
    check_pixels(shelf, f"ddpm-{clip}".lower(), scheduler)


def test_a_deterministic_unconditional_model_too(shelf: Shelf) -> None:
    shelf.get("ddpm", tiny_pipelines.ddpm)
    check_pixels(shelf, "ddim", diffusers.DDIMScheduler(clip_sample=False))


def check_pixels(shelf: Shelf, name: str, scheduler: Any) -> None:
    make = partial(tiny_pipelines.ddpm, scheduler=scheduler)
    pipeline, engine = shelf.get(name, make, like="ddpm")
    _, image = ours(engine, steps=8, seed=3)
    (wanted,) = pipeline(generator=generator(3), num_inference_steps=8, output_type="np").images
    assert np.abs(image - wanted).max() <= PIXELS


def test_the_first_noise_is_one_draw_from_the_rows_own_generator(shelf: Shelf) -> None:
    _, engine = of(shelf, "sd-ddim")
    jobs = engine.jobs(call("generate", prompt="a cat", n=2, seed=21))
    for row, trajectory in enumerate(engine.prepare(jobs)):
        expected = torch.randn((4, 8, 8), generator=generator(21 + row))
        assert torch.equal(trajectory.x, expected)


def test_the_same_image_alone_and_in_a_mixed_batch_bitwise(shelf: Shelf) -> None:
    of(shelf, "sd-ddim")
    shelf.get("ddpm", tiny_pipelines.ddpm)
    asks: list[dict[str, Any]] = [
        {"model": "sd-ddim", "prompt": "a red cat", "steps": 6, "seed": 1},
        {"model": "sd-ddim", "prompt": "a dog", "steps": 9, "guidance_scale": 1.0, "seed": 2},
        {
            "model": "sd-ddim", "prompt": "the moon", "negative_prompt": "ugly",
            "steps": 4, "sampler": "dpmpp_2m", "guidance_scale": 2.0, "seed": 3,
        },
        {"model": "sd-ddim", "prompt": "a cat", "steps": 5, "sampler": "euler_ancestral", "n": 2},
        {"model": "ddpm", "steps": 5, "sampler": "ddpm", "seed": 4},
    ]  # fmt: skip
    backend = InProcessBackend(
        StoreSource(shelf.store, threads=THREADS),
        discover(),
        settings=PoolSettings(drain_seconds=0.0),
    )

    async def images(*wanted: dict[str, Any]) -> list[bytes | None]:
        answers = await asyncio.gather(*(backend.run(call("generate", **w)) for w in wanted))
        return [item.image for answer in answers for item in answer.items]

    try:
        alone = [image for ask in asks for image in asyncio.run(images(ask))]
        together = asyncio.run(images(*asks))
    finally:
        backend.close()
    assert alone == together
    assert len(set(alone)) == len(alone)


def test_a_prompt_that_would_be_cut_off_is_refused(shelf: Shelf) -> None:
    _, engine = of(shelf, "sd-ddim")
    (job,) = engine.jobs(call("generate", prompt="a cat " * 20, steps=2))
    with pytest.raises(InvalidParameter, match="reads at most 16"):
        engine.prepare([job])


def test_what_the_model_cannot_be_told_is_refused(shelf: Shelf) -> None:
    _, engine = of(shelf, "sd-ddim")
    with pytest.raises(InvalidParameter, match="no factors"):
        engine.jobs(call("generate", factors={"color": "red"}))
    with pytest.raises(InvalidParameter, match="no labels"):
        engine.jobs(call("generate", prompt="a cat", label=1))


def test_latents_of_an_image_decode_to_it_as_the_autoencoder_does(shelf: Shelf) -> None:
    pipeline, engine = of(shelf, "sd-ddim")
    encoder, decoder = (engine.model.networks[name] for name in ("encoder", "decoder"))
    image = torch.rand((2, 3, 16, 16), generator=generator(0)) * 2 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(image).latent_dist
        decoded = pipeline.vae.decode(posterior.mean).sample
    found = encoder(image=image)
    torch.testing.assert_close(found["mean"], posterior.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["log_variance"], posterior.logvar, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decoder(z=found["mean"])["image"], decoded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("operation", ["variation", "inpaint"])
def test_an_imported_model_edits_images_as_any_latent_model_does(
    shelf: Shelf, operation: str
) -> None:
    _, engine = of(shelf, "sd-ddim")
    image = some_pixels(3, 16, 16)
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[:, :8] = 255
    masked = {"mask": mask} if operation == "inpaint" else {}
    what = {"images": [image], "prompt": "a cat", "steps": 4, "strength": 0.5, **masked}
    (result,) = ask(engine, operation, **what)
    assert result.pixels is not None
    assert result.pixels.shape == (3, 16, 16)
    assert not np.array_equal(result.pixels, image)
    if masked:
        assert np.array_equal(result.pixels[:, 8:], image[:, 8:])
