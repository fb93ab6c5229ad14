"""An imported folder edits images as diffusers' own pipelines do, from the same noise."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from services.core.engine import Engine
from services.core.errors import (
    AtelierError,
    EngineFailure,
    InvalidManifest,
    InvalidNetwork,
    InvalidParameter,
)
from services.core.images import ImageLimits, Pixels
from services.core.job import Call
from services.core.parameters import Latents
from services.core.trajectory import Result
from services.families import discover
from services.serving.in_process import InProcessBackend, PoolSettings
from services.serving.store_source import StoreSource
from tests import tiny_pipelines
from tests.engines import CPU, call, some_pixels
from tests.pipeline_shelf import LATENTS, PIXELS, THREADS, Make, Shelf, generator, ours

IMAGE = some_pixels(3, 16, 16, seed=4)
MASK = np.zeros((1, 16, 16), np.uint8)
MASK[:, 3:12, 5:] = 255
FULL = np.full_like(MASK, 255)

INPAINTING: dict[str, Make] = {
    "sd-inpainting": tiny_pipelines.stable_inpainting,
    "sdxl-inpainting": tiny_pipelines.stable_xl_inpainting,
}
SMALL = "sd-inpainting"
NATIVE = [SMALL, pytest.param("sdxl-inpainting", marks=pytest.mark.slow)]


def photograph(pixels: Pixels) -> Image.Image:
    """What diffusers takes."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def theirs(pipeline: Any, *, seed: int, steps: int, **told: Any) -> tuple[torch.Tensor, Any]:
    """The last latents and the image of a pipeline of diffusers."""
    told |= {"num_inference_steps": steps}
    latents = pipeline(generator=generator(seed), output_type="latent", **told).images[0]
    (image,) = pipeline(generator=generator(seed), output_type="np", **told).images
    return latents, image


def masked(pixels: Pixels = IMAGE, mask: Pixels = MASK) -> dict[str, Any]:
    """An image and a mask as diffusers takes them."""
    return {"image": photograph(pixels), "mask_image": photograph(mask)}


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_a_unet_for_inpainting_paints_what_the_pipeline_paints(
    shelf: Shelf, name: str, strength: float
) -> None:
    pipeline, engine = shelf.get(name, INPAINTING[name])
    told = {"prompt": "a red cat", "guidance_scale": 4.0, "strength": strength}
    state, image = ours(engine, "inpaint", images=[IMAGE], mask=MASK, seed=5, steps=6, **told)
    latents, wanted = theirs(pipeline, seed=5, steps=6, **masked(), **told)
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)
    painted = MASK[0] > 0
    assert np.abs(image - wanted)[painted].max() <= PIXELS
    kept = IMAGE.transpose(1, 2, 0) / 255
    assert np.array_equal(image[~painted], kept[~painted])


@pytest.mark.parametrize("name", NATIVE)
def test_without_a_mask_everything_is_masked(shelf: Shelf, name: str) -> None:
    """What diffusers' users pass: a full mask, under which no image shows."""
    pipeline, engine = shelf.get(name, INPAINTING[name])
    told = {"prompt": "a red cat", "negative_prompt": "ugly", "guidance_scale": 3.0}
    state, image = ours(engine, seed=7, steps=4, **told)
    any_image = masked(some_pixels(3, 16, 16, seed=8), FULL)
    latents, wanted = theirs(pipeline, seed=7, steps=4, **any_image, **told, strength=1.0)
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)
    assert np.abs(image - wanted).max() <= PIXELS


def test_a_variation_of_a_model_for_inpainting_masks_everything_too(shelf: Shelf) -> None:
    pipeline, engine = shelf.get(SMALL, INPAINTING[SMALL])
    told = {"prompt": "a dog", "guidance_scale": 1.0, "strength": 0.5}
    state, _ = ours(engine, "variation", images=[IMAGE], seed=3, steps=8, **told)
    latents, _ = theirs(pipeline, seed=3, steps=8, **masked(mask=FULL), **told)
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)


def test_what_is_masked_and_what_is_not_are_heard(shelf: Shelf) -> None:
    _, engine = shelf.get(SMALL, INPAINTING[SMALL])
    what: dict[str, Any] = {"prompt": "a cat", "steps": 3}
    state, _ = ours(engine, "inpaint", images=[IMAGE], mask=MASK, **what)
    other = IMAGE.copy()
    other[:, 3:12, 5:] = 0  # under the mask
    same, _ = ours(engine, "inpaint", images=[other], mask=MASK, **what)
    assert torch.equal(state, same)
    other[:, 0, 0] ^= 255  # beside it
    differs, _ = ours(engine, "inpaint", images=[other], mask=MASK, **what)
    wider, _ = ours(engine, "inpaint", images=[IMAGE], mask=FULL, **what)
    assert not torch.equal(state, differs)
    assert not torch.equal(state, wider)


MIX: tuple[dict[str, Any], ...] = (
    {"name": "inpaint", "images": [IMAGE], "mask": MASK, "prompt": "a cat", "steps": 5, "n": 2},
    {"name": "inpaint", "images": [IMAGE], "mask": FULL, "steps": 3, "guidance_scale": 1.0},
    {"name": "generate", "prompt": "the moon", "steps": 4, "sampler": "euler_ancestral"},
    {
        "name": "variation", "images": [IMAGE], "prompt": "a red dog", "steps": 6,
        "strength": 0.5, "sampler": "dpmpp_2m", "guidance_scale": 2.0,
    },
    {"name": "invert", "images": [IMAGE], "prompt": "a dog", "steps": 3, "strength": 0.6},
    {"name": "interpolate", "prompt": "a cat", "end_prompt": "a dog", "n": 3, "steps": 2},
    {"name": "outpaint", "images": [IMAGE], "left": 4, "prompt": "a cat", "steps": 3},
)  # fmt: skip


def rows_of(engine: Engine, *asks: dict[str, Any]) -> list[Any]:
    """The trajectories of calls, prepared in one batch."""
    jobs = []
    for seed, what in enumerate(asks):
        name = what["name"]
        told = {key: value for key, value in what.items() if key != "name"}
        jobs += engine.jobs(call(name, seed=seed, **told))
    return engine.prepare(jobs)


def carried(engine: Engine, batch: list[Any]) -> list[Result]:
    """Results of rows that step together as long as they go."""
    while unfinished := [t for t in batch if not t.finished]:
        engine.step(unfinished)
    return engine.decode(batch)


def test_rows_with_and_without_a_mask_share_a_batch_bitwise(shelf: Shelf) -> None:
    _, engine = shelf.get(SMALL, INPAINTING[SMALL])
    together = carried(engine, rows_of(engine, *MIX))
    alone: list[Result] = []
    for seed, what in enumerate(MIX):
        named = {**what, "seed": seed}
        jobs = engine.jobs(call(named.pop("name"), **named))
        for job in jobs:
            alone += carried(engine, engine.prepare([job]))
    assert len(alone) == len(together) == 10
    for one, other in zip(alone, together, strict=True):
        assert one.pixels is not None
        assert other.pixels is not None
        assert np.array_equal(one.pixels, other.pixels)


def test_a_row_for_inpainting_fails_without_touching_the_bytes_of_others(shelf: Shelf) -> None:
    """A batch that raises leaves every row as it was, and the others go on to the same image."""
    _, engine = shelf.get(SMALL, INPAINTING[SMALL])
    expected = carried(engine, rows_of(engine, *MIX))
    batch = rows_of(engine, *MIX)
    engine.step(batch)
    guilty, before = batch[0], [t.x.clone() for t in batch]
    mask = guilty.steering.conditions[0]["mask"]
    broken = {**guilty.steering.conditions[0], "mask": mask[:, :4]}
    guilty.steering.conditions = (broken,)
    with pytest.raises((AtelierError, RuntimeError)):
        engine.step(batch)
    with pytest.raises((AtelierError, RuntimeError)):
        engine.step([guilty])
    for trajectory, state in zip(batch, before, strict=True):
        assert torch.equal(trajectory.x, state)
        assert trajectory.index == 1
    results = carried(engine, batch[1:])
    for one, other in zip(expected[1:], results, strict=True):
        assert one.pixels is not None
        assert other.pixels is not None
        assert np.array_equal(one.pixels, other.pixels)


def test_a_model_for_inpainting_needs_its_encoder(shelf: Shelf) -> None:
    _, engine = shelf.get(SMALL, INPAINTING[SMALL])
    networks = {k: v for k, v in engine.model.networks.items() if k != "encoder"}
    without = type(engine)(replace(engine.model, networks=networks), CPU, ImageLimits())
    with pytest.raises(InvalidNetwork, match="needs a network 'encoder'"):
        without.setup()


def test_requests_that_fail_leave_their_neighbours_images_alone(shelf: Shelf) -> None:
    """Through the loop: one prompt is too long, one row's numbers are not finite."""
    shelf.get(SMALL, INPAINTING[SMALL])
    sound = [
        call("inpaint", model=SMALL, images=[IMAGE], mask=MASK, prompt="a cat", steps=4, seed=1),
        call("generate", model=SMALL, prompt="a dog", steps=6, guidance_scale=2.0, seed=2),
    ]
    endless = Latents.from_array(np.full((4, 8, 8), 3e38, np.float32)).model_dump()
    broken = [
        call("inpaint", model=SMALL, images=[IMAGE], mask=FULL, prompt="a cat " * 40, steps=4),
        call("generate", model=SMALL, latents=endless, steps=4),
    ]
    backend = InProcessBackend(
        StoreSource(shelf.store, threads=THREADS),
        discover(),
        settings=PoolSettings(drain_seconds=0.0),
    )

    async def all_at_once(*calls: Call) -> list[Any]:
        return await asyncio.gather(*(backend.run(c) for c in calls), return_exceptions=True)

    try:
        alone = [asyncio.run(all_at_once(one))[0] for one in sound]
        first, long, second, infinite = asyncio.run(
            all_at_once(sound[0], broken[0], sound[1], broken[1])
        )
    finally:
        backend.close()
    assert isinstance(long, InvalidParameter)
    assert isinstance(infinite, EngineFailure)
    assert [a.items for a in alone] == [first.items, second.items]


def test_a_folder_of_9_channels_must_say_that_it_is_for_inpainting(shelf: Shelf) -> None:
    def plain(folder: Any) -> Any:
        return tiny_pipelines.stable_diffusion(folder, in_channels=9)

    with pytest.raises(InvalidManifest, match="StableDiffusionInpaintPipeline"):
        shelf.get("plain-9", plain)


PLAIN: dict[str, tuple[Make, Any, dict[str, Any]]] = {
    "sd": (
        tiny_pipelines.stable_diffusion,
        diffusers.StableDiffusionImg2ImgPipeline,
        {"guidance_scale": 4.0, "negative_prompt": "ugly"},
    ),
    "sdxl": (
        tiny_pipelines.stable_diffusion_xl,
        diffusers.StableDiffusionXLImg2ImgPipeline,
        {"guidance_scale": 5.0},
    ),
    "sd3": (
        tiny_pipelines.stable_diffusion_3,
        diffusers.StableDiffusion3Img2ImgPipeline,
        {"guidance_scale": 4.0},
    ),
    "flux": (
        tiny_pipelines.flux,
        diffusers.FluxImg2ImgPipeline,
        {"guidance_scale": 3.5},
    ),
}
OWN: dict[str, dict[str, Any]] = {
    "sd3": {"height": 16, "width": 16},
    "flux": {"height": 16, "width": 16},
}
SLOW = {"sd3", "flux", "sdxl"}


@pytest.mark.parametrize("strength", [0.3, 0.55, 1.0])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in PLAIN]
)
def test_a_variation_is_the_img2img_pipelines_own_image(
    shelf: Shelf, name: str, strength: float
) -> None:
    make, kind, told = PLAIN[name]
    base, engine = shelf.get(name, make)
    pipeline = kind(**base.components)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"prompt": "a red cat on the moon", "strength": strength, **told}
    state, image = ours(engine, "variation", images=[IMAGE], seed=9, steps=5, **asked)
    latents, wanted = theirs(
        pipeline, seed=9, steps=5, image=photograph(IMAGE), **asked, **OWN.get(name, {})
    )
    if latents.dim() == 2:  # packed
        latents = latents.view(4, 4, 4, 2, 2).permute(2, 0, 3, 1, 4).reshape(4, 8, 8)
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)
    assert np.abs(image - wanted).max() <= PIXELS
