"""Previews: what a row is becoming, small and cheap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from services.core.errors import InvalidManifest
from services.core.job import (
    Watch,
)
from services.core.network import OpenedModel
from services.families.diffusion.previews import fit
from tests.engines import call, opened, ready
from tests.gaussian_data import SCHEDULES, GaussianData
from tests.tiny_models import tiny_diffusion


@pytest.mark.parametrize(
    ("watch", "steps", "due"),
    [
        (Watch(), 10, []),
        (Watch(preview_every=4), 12, [4, 8]),
        (Watch(previews=3), 8, [2, 4, 6]),
        (Watch(previews=1), 25, [12]),
        (Watch(previews=3), 2, [1]),
        (Watch(previews=3), 1, []),
    ],
)
def test_previews_are_due(watch: Watch, steps: int, due: list[int]) -> None:
    assert [step for step in range(1, steps + 1) if watch.due(step, steps)] == due


def test_a_preview_of_pixels_is_the_denoised_image() -> None:
    schedule, prediction = SCHEDULES["variance_preserving"]
    data = GaussianData(0.4, schedule)
    options = {"schedule": {"type": "variance_preserving"}, "prediction_type": prediction}
    model = opened(
        "diffusion",
        {"denoiser": data.network((1, 8, 8), prediction)},
        resolution=(8, 8),
        options=options,
    )
    engine = ready(model)
    (job,) = engine.jobs(call("generate", steps=6, sampler="ddim"))
    batch = engine.prepare([job])
    for _ in range(3):
        level, x = batch[0].level, batch[0].x
        engine.step(batch)
    denoised = data.denoise(x.double(), level.alpha, level.sigma)
    expected = ((denoised + 1) / 2 * 255).round().clamp(0, 255)
    shown = engine.preview(batch[0])
    assert shown is not None
    assert np.abs(shown.astype(float) - expected.numpy()).max() <= 1
    assert engine.noise_level(batch[0]) == pytest.approx(batch[0].plan.sigmas[3])


def test_a_map_fitted_to_an_affine_decoder_is_that_decoder() -> None:
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=source).double() * 20
    bias = torch.tensor([90.0, 120.0, 150.0]).double()
    latents = [torch.randn(4, 6, 6, generator=source) for _ in range(8)]
    colors = [
        torch.einsum("ck,khw->chw", weight, z.double()) + bias.view(-1, 1, 1) for z in latents
    ]
    pixels = [
        c.round().clamp(0, 255).byte().repeat_interleave(2, 1).repeat_interleave(2, 2)
        for c in colors
    ]
    fitted = fit(latents, [p.numpy() for p in pixels])
    assert torch.allclose(fitted.weight, weight, atol=1.5)
    assert torch.allclose(fitted.bias, bias, atol=1.5)
    exact = colors[0].clamp(0, 255).numpy()
    assert np.abs(fitted.apply(latents[0]).astype(float) - exact).mean() < 2


def test_a_preview_of_latents_is_made_of_the_denoised_one() -> None:
    engine: Any = ready(tiny_diffusion())
    (job,) = engine.jobs(call("generate", prompt="red", steps=6))
    batch = engine.prepare([job])
    assert engine.preview(batch[0]) is None
    engine.step(batch)
    shown = engine.preview(batch[0])
    assert shown.shape == (3, 4, 4)
    assert (shown == engine.preview_map.apply(batch[0].denoised)).all()


def test_a_manifest_may_give_the_colours() -> None:
    model = tiny_diffusion()
    given = {"weight": [[1.0, 2.0]] * 3, "bias": [10.0, 20.0, 30.0]}
    engine: Any = ready(_with(model, preview=given))
    shown = engine.preview_map.apply(torch.tensor([3.0, 4.0]).view(2, 1, 1))
    assert shown.flatten().tolist() == [21, 31, 41]
    with pytest.raises(InvalidManifest, match="3 rows of 2"):
        ready(_with(model, preview={"weight": [[1.0]], "bias": [0.0]}))


def test_an_inpainting_shows_what_it_keeps() -> None:
    engine: Any = ready(tiny_diffusion())
    image = np.full((3, 8, 8), 40, np.uint8)
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[:, :, 4:] = 255
    kept = []
    for prompt in ("a red circle", "a blue square"):
        wanted = call("inpaint", images=[image], mask=mask, prompt=prompt, steps=6, seed=len(kept))
        batch = engine.prepare(engine.jobs(wanted))
        engine.step(batch)
        kept.append(engine.preview(batch[0]))
    assert (kept[0][:, :, :2] == kept[1][:, :, :2]).all()
    assert (kept[0][:, :, 2:] != kept[1][:, :, 2:]).any()


def _with(model: OpenedModel, **options: Any) -> OpenedModel:
    return replace(model, options={**model.options, **options})
