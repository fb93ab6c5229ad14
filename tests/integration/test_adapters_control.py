"""ControlNet: rows that hear one make what diffusers makes, beside rows that hear none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from model_store.adapters.addition import add_adapter
from model_store.addition import add_model
from model_store.store import Store
from services.core.engine import Engine
from services.core.errors import InvalidNetwork, InvalidParameter
from services.core.images import Encoding, ImageLimits, Pixels, encode
from services.core.job import Job
from services.families import discover
from services.serving.store_source import StoreSource
from tests import tiny_adapters, tiny_pipelines
from tests.adapter_bench import BASE, Bench
from tests.engines import CPU, call, some_pixels
from tests.pipeline_shelf import LATENTS, PIXELS, generator

ASKED: dict[str, Any] = {"prompt": "a red cat on the moon", "guidance_scale": 5.0}
EDGES, DEPTH = some_pixels(3, 16, 16, seed=5), some_pixels(3, 16, 16, seed=6)


class ControlBench(Bench):
    """With two ControlNets beside the LoRAs."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.controls = {}
        for seed, name in enumerate(("edges", "depth")):
            folder = root / name
            net = tiny_adapters.controlnet(self.pipeline.unet, folder, seed=seed)
            self.controls[name] = net
            add_adapter(self.store, folder, base=BASE, name=name, threads=1)

    def theirs(self, *names: str) -> Any:
        """The pipeline of diffusers with these ControlNets."""
        nets = [self.controls[name] for name in names]
        parts = dict(self.pipeline.components)
        pipeline = diffusers.StableDiffusionControlNetPipeline(
            **parts, controlnet=nets if len(nets) > 1 else nets[0], requires_safety_checker=False
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlBench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield ControlBench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def engine(bench: ControlBench) -> Engine:
    return bench.engine()


def job(engine: Engine, name: str = "generate", hints: tuple[Pixels, ...] = (), **what: Any) -> Job:
    files = tuple(encode(pixels, Encoding()) for pixels in hints)
    (found,) = engine.jobs(replace(call(name, **what), controls=files))
    return found


def run(engine: Engine, found: Job) -> tuple[torch.Tensor, Any]:
    (trajectory,) = engine.prepare([found])
    while not trajectory.finished:
        engine.step([trajectory])
    state = trajectory.x.clone()
    (result,) = engine.decode([trajectory])
    assert result.pixels is not None
    return state, result.pixels.transpose(1, 2, 0) / 255


def picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ({}, {}),
        ({"scale": 0.5}, {"controlnet_conditioning_scale": 0.5}),
        (
            {"start": 0.2, "end": 0.7},
            {"control_guidance_start": 0.2, "control_guidance_end": 0.7},
        ),
    ],
    ids=["whole", "scaled", "part of the way"],
)
def test_a_control_makes_the_pipelines_own_image(
    bench: ControlBench, engine: Engine, use: dict[str, Any], told: dict[str, Any]
) -> None:
    control = [{"name": "edges", **use}]
    state, image = run(
        engine, job(engine, hints=(EDGES,), control=control, steps=4, seed=3, **ASKED)
    )
    theirs = bench.theirs("edges")
    asked = {"image": picture(EDGES), "num_inference_steps": 4, **ASKED, **told}
    latents = theirs(generator=generator(3), output_type="latent", **asked).images[0]
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)
    (wanted,) = theirs(generator=generator(3), output_type="np", **asked).images
    assert np.abs(image - wanted).max() <= PIXELS
    plain, _ = run(engine, job(engine, steps=4, seed=3, **ASKED))
    assert not torch.allclose(plain, state, atol=1e-2)


def test_two_controls_are_heard_together(bench: ControlBench, engine: Engine) -> None:
    control = [{"name": "edges", "scale": 0.5}, {"name": "depth", "scale": 0.8}]
    found = job(engine, hints=(EDGES, DEPTH), control=control, steps=3, seed=3, **ASKED)
    state, _ = run(engine, found)
    latents = bench.theirs("edges", "depth")(
        image=[picture(EDGES), picture(DEPTH)],
        controlnet_conditioning_scale=[0.5, 0.8],
        num_inference_steps=3,
        generator=generator(3),
        output_type="latent",
        **ASKED,
    ).images[0]
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)


def test_rows_with_control_with_loras_and_plain_share_evaluations_bitwise(engine: Engine) -> None:
    edges = [{"name": "edges"}]
    jobs = [
        job(engine, steps=3, seed=1, **ASKED),
        job(engine, hints=(EDGES,), control=edges, steps=3, seed=1, **ASKED),
        job(engine, adapters=[{"name": "style"}], steps=3, seed=1, **ASKED),
        job(
            engine, hints=(DEPTH,), control=[{"name": "edges", "end": 0.5}], steps=3, seed=2,
            adapters=[{"name": "voice"}], **ASKED,
        ),
        job(engine, hints=(EDGES,), control=[{"name": "depth"}], steps=3, seed=1, **ASKED),
    ]  # fmt: skip
    together = engine.prepare(jobs)
    alone = [engine.prepare([one])[0] for one in jobs]
    for _ in range(3):
        engine.step(together)
        for trajectory in alone:
            engine.step([trajectory])
        for mixed, single in zip(together, alone, strict=True):
            assert torch.equal(mixed.x, single.x)
    assert len({trajectory.x.numpy().tobytes() for trajectory in alone}) == len(jobs)


def test_an_edit_hears_a_control_and_it_costs_rows_where_it_is_heard(engine: Engine) -> None:
    what = {"images": [some_pixels(3, 16, 16)], "steps": 4, "strength": 0.5, "seed": 1, **ASKED}
    half = [{"name": "edges", "end": 0.5}]
    found = job(engine, "variation", hints=(EDGES,), control=half, **what)
    (trajectory,) = engine.prepare([found])
    rows = []
    while not trajectory.finished:
        rows.append(trajectory.rows)
        engine.step([trajectory])
    assert rows == [4, 2]
    assert engine.workload(found).rows == 4
    plain, _ = run(engine, job(engine, "variation", **what))
    assert not torch.equal(plain, trajectory.x)


def test_what_cannot_be_heard_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidParameter, match="1 controls were named and 0 images"):
        job(engine, control=[{"name": "edges"}], **ASKED)
    with pytest.raises(InvalidParameter, match="0 controls were named and 1 images"):
        job(engine, hints=(EDGES,), **ASKED)
    with pytest.raises(InvalidParameter, match="'style' is a LoRA, not a ControlNet"):
        job(engine, hints=(EDGES,), control=[{"name": "style"}], **ASKED)
    with pytest.raises(InvalidParameter, match="did you mean edges"):
        job(engine, hints=(EDGES,), control=[{"name": "edge"}], **ASKED)
    grown = {"images": [EDGES], "left": 8, "canvas": "grow", **ASKED}
    with pytest.raises(InvalidParameter, match="canvas keep"):
        job(engine, "outpaint", hints=(EDGES,), control=[{"name": "edges"}], **grown)
    with pytest.raises(InvalidParameter, match="before the end"):
        job(engine, hints=(EDGES,), control=[{"name": "edges", "start": 0.5, "end": 0.5}], **ASKED)


def test_a_control_of_another_unet_is_refused(bench: ControlBench) -> None:
    wider = tiny_pipelines.text_unet(block_out_channels=(16, 16))
    folder = bench.root / "wider"
    tiny_adapters.controlnet(wider, folder)
    with pytest.raises(InvalidNetwork, match="the UNet takes"):
        add_adapter(bench.store, folder, base=BASE, threads=1)
    assert not bench.store.adapters.holds("wider")


@pytest.mark.slow
def test_sdxl_hears_a_control_as_diffusers_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pipeline = tiny_pipelines.stable_diffusion_xl(tmp_path / "tiny-xl")
    store = Store(tmp_path / "store", catalogs=())
    add_model(store, tmp_path / "tiny-xl", threads=1)
    net = tiny_adapters.controlnet(pipeline.unet, tmp_path / "edges")
    add_adapter(store, tmp_path / "edges", base="tiny-xl", threads=1)
    model = StoreSource(store, threads=1).open("tiny-xl", CPU)
    engine = discover()[model.family](model, CPU, ImageLimits())
    engine.setup()
    control = [{"name": "edges", "scale": 0.7}]
    state, _ = run(engine, job(engine, hints=(EDGES,), control=control, steps=3, seed=3, **ASKED))
    theirs = diffusers.StableDiffusionXLControlNetPipeline(
        **pipeline.components, controlnet=net, add_watermarker=False
    )
    theirs.set_progress_bar_config(disable=True)
    latents = theirs(
        image=picture(EDGES),
        controlnet_conditioning_scale=0.7,
        num_inference_steps=3,
        generator=generator(3),
        output_type="latent",
        **ASKED,
    ).images[0]
    torch.testing.assert_close(state, latents, atol=LATENTS, rtol=1e-4)
