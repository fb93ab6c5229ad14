"""Super-resolution by diffusion: against closed forms, at any size, in any company."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from services.core.errors import InvalidManifest, InvalidParameter, UnsupportedTask
from services.core.images import Pixels
from services.core.network import OpenedModel
from services.core.pixels import to_pixels, to_tensor
from services.families.super_resolution.engine import MOST_SIDE
from services.sampling.enlarging import enlarged
from services.sampling.schedule import VariancePreserving
from services.sampling.tiling import tiling
from tests.engines import RowByRow, ask, call, carry, floats, opened, pixels_of, ready, some_pixels
from tests.gaussian_data import GaussianData
from tests.tiny_models import tiny_super_resolution

SCHEDULE = VariancePreserving()
STD, SCALE, TILE = 0.5, 0.1, 8
DATA = GaussianData(STD, SCHEDULE)


def with_detail(mean: Tensor, **options: Any) -> OpenedModel:
    """The optimal model of detail ``N(mean, STD^2)``, the same at every pixel of a tile."""

    def predict(x: Tensor, t: Tensor, enlarged: Tensor) -> Mapping[str, Tensor]:
        alpha, sigma = (float(level) for level in DATA.levels(t))
        clean = mean + DATA.denoise(x.double() - alpha * mean, alpha, sigma)
        noise = (x.double() - alpha * clean) / sigma
        return {"velocity": (alpha * noise - sigma * clean + 0 * enlarged).float()}

    shape = (3, TILE, TILE)
    inputs = {"x": floats(*shape), "t": floats(), "enlarged": floats(*shape)}
    return opened(
        "super_resolution",
        {"denoiser": RowByRow(predict, inputs, ["velocity"])},
        resolution=(TILE, TILE),
        channels=3,
        options={
            "residual_scale": SCALE,
            "schedule": SCHEDULE.model_dump(),
            "defaults": {"sampler": "ddim", "steps": 20},
            **options,
        },
    )


def smooth(height: int, width: int) -> Pixels:
    """An image without any edge."""
    blocks = np.random.default_rng(1).integers(60, 190, (2, 2, 3), np.uint8)
    image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def plain(image: Pixels) -> Pixels:
    """What enlarging alone makes of an image."""
    (given,) = to_tensor([image], (-1.0, 1.0))
    return to_pixels(enlarged(given, 2)[None], (-1.0, 1.0))[0]


def test_enlarging_is_bicubic_as_torch_and_pillow_understand_it() -> None:
    """Pillow's filter has -0.5 where torch's has -0.75: close, where nothing is sharp."""
    image = smooth(16, 16)
    by_pillow = Image.fromarray(image.transpose(1, 2, 0)).resize((32, 32), Image.Resampling.BICUBIC)
    difference = plain(image).astype(int) - np.asarray(by_pillow).transpose(2, 0, 1).astype(int)
    assert abs(difference).max() <= 3


@pytest.mark.parametrize("size", [(4, 4), (7, 4), (11, 9), (13, 10)])
def test_known_detail_is_added_to_the_enlarged_image_of_any_size(size: tuple[int, int]) -> None:
    engine = ready(with_detail(torch.tensor(1.5)))
    image = smooth(*size)
    results = ask(engine, "super_resolution", images=[image], n=4, seed=3)
    added = np.stack(pixels_of(results)).astype(float) - plain(image)
    assert added.shape == (4, 3, 2 * size[0], 2 * size[1])
    assert added.mean() == pytest.approx(1.5 * SCALE * 127.5, abs=2.0)


def test_the_detail_of_one_tile_has_the_spread_that_the_model_learned() -> None:
    engine = ready(with_detail(torch.tensor(0.0)))
    image = np.full((3, 4, 4), 128, np.uint8)
    results = ask(engine, "super_resolution", images=[image], n=16, seed=3, sampler="heun")
    added = np.stack(pixels_of(results)).astype(float) - plain(image)
    assert added.std() == pytest.approx(STD * SCALE * 127.5, rel=0.03)


def test_one_step_gives_the_mean_of_all_detail() -> None:
    spaced = {**SCHEDULE.model_dump(), "timestep_spacing": "trailing"}
    engine = ready(with_detail(torch.tensor(0.8), schedule=spaced))
    image = smooth(4, 4)
    (found,) = pixels_of(ask(engine, "super_resolution", images=[image], steps=1, seed=9))
    added = found.astype(float) - plain(image)
    assert added.mean() == pytest.approx(0.8 * SCALE * 127.5, abs=1.0)
    assert added.std() < 1.5


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 9), (22, 8), (64, 37), (31, 32)])
def test_tiles_cover_an_image_and_join_to_it_again(height: int, width: int) -> None:
    image = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    found = tiling(height, width, TILE)
    tiles = found.cut(image)
    assert {tuple(tile.shape) for tile in tiles} == {(3, TILE, TILE)}
    assert torch.allclose(found.join(tiles), image, atol=1e-6)
    if len(tiles) == 1:
        assert torch.equal(found.join(tiles), image)


def test_neighbouring_tiles_overlap_by_a_quarter() -> None:
    rows = sorted({y for y, _ in tiling(101, 8, TILE).corners})
    assert rows[0] == 0
    assert rows[-1] == 101 - TILE
    assert all(0 < b - a <= TILE - TILE // 4 for a, b in pairwise(rows))


def test_images_of_several_sizes_share_evaluations_and_are_the_same_as_alone() -> None:
    model = tiny_super_resolution()
    engine = ready(model)
    network = model.networks["denoiser"]
    assert isinstance(network, RowByRow)
    calls = [
        call("super_resolution", images=[some_pixels(3, *size, seed=i)], seed=i, n=2)
        for i, size in enumerate([(4, 4), (9, 4), (6, 13)])
    ]
    jobs = [job for one in calls for job in engine.jobs(one)]
    batch = engine.prepare(jobs)
    network.batches.clear()
    while not batch[0].finished:
        engine.step(batch)
    assert network.batches == [sum(t.rows for t in batch)] * 3
    together = engine.decode(batch)
    for job, result in zip(jobs, together, strict=True):
        (alone,) = carry(engine, [job])
        assert np.array_equal(alone.pixels, result.pixels)
        assert alone.values == result.values == {"seed": job.seed}


@pytest.mark.parametrize(("height", "width"), [(3, 8), (8, 3), (MOST_SIDE + 1, 8)])
def test_an_image_of_another_size_is_refused_with_the_sizes_that_fit(
    height: int, width: int
) -> None:
    engine = ready(tiny_super_resolution())
    with pytest.raises(InvalidParameter, match=f"from 4 to {MOST_SIDE}") as caught:
        engine.jobs(call("super_resolution", images=[some_pixels(3, height, width)]))
    assert caught.value.param == "image"


def test_generating_is_refused_with_what_to_do_instead() -> None:
    engine = ready(tiny_super_resolution())
    with pytest.raises(UnsupportedTask, match="cascade"):
        engine.jobs(call("generate"))


def test_a_sampler_that_does_not_fit_is_refused() -> None:
    engine = ready(tiny_super_resolution())
    with pytest.raises(InvalidParameter) as caught:
        engine.jobs(
            call("super_resolution", images=[some_pixels(3, 4, 4)], sampler="annealed_langevin")
        )
    assert caught.value.param == "sampler"


def test_a_preview_has_the_size_of_the_answer() -> None:
    engine = ready(tiny_super_resolution())
    (trajectory,) = engine.prepare(
        engine.jobs(call("super_resolution", images=[some_pixels(3, 6, 13)]))
    )
    assert engine.preview(trajectory) is None
    engine.step([trajectory])
    shown = engine.preview(trajectory)
    assert shown is not None
    assert shown.shape == (3, 12, 26)


@pytest.mark.parametrize(
    ("options", "resolution"),
    [
        ({"factor": 3}, (8, 8)),
        ({}, (8, 12)),
        ({"residual_scale": 0.0}, (8, 8)),
        ({"colour": 1}, (8, 8)),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    options: dict[str, Any], resolution: tuple[int, int]
) -> None:
    whole = tiny_super_resolution()
    model = opened(
        "super_resolution",
        whole.networks,
        resolution=resolution,
        channels=3,
        options={**whole.options, **options},
    )
    with pytest.raises(InvalidManifest):
        ready(model)
