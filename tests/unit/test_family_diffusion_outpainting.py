"""Outpainting with a diffusion model, within its canvas and beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidParameter
from services.core.images import ImageLimits, Pixels, read_header, resized
from services.core.job import Event, Preview, RowFinished, Watch
from services.core.network import OpenedModel
from services.families import discover
from services.serving.in_process import InProcessBackend, PoolSettings
from tests.engines import (
    RowByRow,
    ask,
    call,
    carry,
    evaluated,
    floats,
    pixels_of,
    ready,
    some_pixels,
)
from tests.gaussian_data import SHAPE, in_pixels, typical
from tests.tiny_models import Shelf, tiny_diffusion


def constant() -> OpenedModel:
    """A model of pixels in which every image is of one value: that of its own mean."""

    def predict(x: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        sigma = float(t)
        clean = x.mean() / max(1 - sigma, 1e-3) if sigma < 1 else torch.tensor(0.0)
        return {"output": clean.expand_as(x)}

    model = in_pixels()
    network = RowByRow(predict, {"x": floats(*SHAPE), "t": floats()}, ["output"])
    options = {**model.options, "prediction_type": "sample"}
    return replace(model, networks={"denoiser": network}, options=options)


def image(engine: Engine, name: str = "generate", **what: Any) -> Pixels:
    """The only image of a call."""
    (found,) = pixels_of(ask(engine, name, **what))
    return found


def test_the_image_is_kept_in_the_box_that_the_margins_leave_and_the_rest_is_made() -> None:
    engine, given = ready(tiny_diffusion()), some_pixels(3, 8, 8, seed=1)
    margins = {"left": 3, "right": 1, "top": 2}
    first, second = pixels_of(
        ask(engine, "outpaint", images=[given], n=2, steps=4, prompt="red", **margins)
    )
    box = (slice(None), slice(2, 8), slice(3, 7))
    assert np.array_equal(first[box], resized(given, (6, 4)))
    assert np.array_equal(second[box], first[box])
    outside = np.ones((3, 8, 8), bool)
    outside[box] = False
    assert (first[outside] != second[outside]).mean() > 0.2
    assert first.shape == given.shape


def test_margins_of_one_side_only_move_the_image() -> None:
    engine, given = ready(in_pixels()), typical(1)
    found = image(engine, "outpaint", images=[given], bottom=4, steps=3)
    assert np.array_equal(found[:, :4], resized(given, (4, 8)))


def test_what_is_outpainted_belongs_to_the_image() -> None:
    given = np.full(SHAPE, 200, np.uint8)
    found = image(ready(constant()), "outpaint", images=[given], left=2, top=1, steps=50)
    assert np.abs(found.astype(int) - 200).max() <= 12


def test_the_canvas_is_encoded_once_for_all_rows_of_a_call() -> None:
    engine = ready(tiny_diffusion())
    before = len(evaluated(engine, "encoder"))
    ask(engine, "outpaint", images=[some_pixels(3, 8, 8)], n=4, steps=1, left=2)
    assert evaluated(engine, "encoder")[before:] == [1]


@pytest.mark.parametrize(
    ("margins", "param", "words"),
    [
        ({}, "left", "give left, top, right or bottom, in pixels of the 8 x 8 answer"),
        ({"left": 4, "right": 4}, "left", "left and right take 8 of 8 pixels"),
        ({"top": 9}, "top", "together they may take 7"),
        ({"left": -1}, "left", "greater than or equal to 0"),
        ({"left": 1.5}, "left", "integer"),
    ],
)
def test_margins_that_leave_nothing_or_no_room_are_refused(
    margins: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ready(tiny_diffusion()).jobs(call("outpaint", images=[some_pixels(3, 8, 8)], **margins))
    assert caught.value.param == param
    assert words in caught.value.message


def test_outpainting_takes_no_mask() -> None:
    mask = np.full((1, 8, 8), 255, np.uint8)
    with pytest.raises(InvalidParameter, match="takes no mask"):
        ready(tiny_diffusion()).jobs(
            call("outpaint", images=[some_pixels(3, 8, 8)], mask=mask, left=1)
        )


# Beyond the canvas.

PLACE = 2
"""Pixels of `tiny_diffusion` along a side of its latents' places."""


def grown(engine: Engine, given: Pixels, **what: Any) -> Pixels:
    found: Pixels = image(engine, "outpaint", images=[given], canvas="grow", **what)
    return found


@pytest.mark.parametrize(
    ("margins", "size"),
    [
        ({"left": 4, "right": 4}, (8, 16)),
        ({"top": 2}, (10, 8)),
        ({"bottom": 6, "right": 2}, (14, 10)),
        ({"left": 4, "right": 4, "top": 4, "bottom": 4}, (16, 16)),
    ],
)
def test_a_canvas_that_grows_keeps_the_whole_image_and_its_scale(
    margins: dict[str, int], size: tuple[int, int]
) -> None:
    engine, given = ready(tiny_diffusion()), some_pixels(3, 8, 8, seed=1)
    found = grown(engine, given, steps=4, prompt="red", **margins)
    assert found.shape == (3, *size)
    top, left = margins.get("top", 0), margins.get("left", 0)
    assert np.array_equal(found[:, top : top + 8, left : left + 8], given)


def test_the_network_sees_windows_of_its_own_size_beside_other_rows() -> None:
    engine, given = ready(tiny_diffusion()), some_pixels(3, 8, 8, seed=1)
    wide = engine.jobs(
        call("outpaint", images=[given], canvas="grow", right=8, steps=4, guidance_scale=1.0)
    )
    plain = engine.jobs(call("generate", steps=4, guidance_scale=1.0))
    batch = engine.prepare([*wide, *plain])
    assert engine.workload(wide[0]).step == engine.workload(plain[0]).step
    windows = engine.workload(wide[0]).rows
    assert windows > 2
    assert (batch[0].rows, batch[1].rows) == (windows, 1)
    before = len(evaluated(engine))
    engine.step(batch)
    assert evaluated(engine)[before:] == [windows + 1]


def test_a_row_that_grows_and_its_neighbours_are_bitwise_what_they_are_alone() -> None:
    engine, given = ready(tiny_diffusion()), some_pixels(3, 8, 8, seed=1)
    asked = [
        call("outpaint", images=[given], canvas="grow", right=4, steps=5, prompt="red", seed=3),
        call("generate", steps=5, prompt="blue", seed=4),
        call("outpaint", images=[given], canvas="grow", top=6, left=2, steps=3, seed=5, n=2),
        call("outpaint", images=[given], left=2, steps=4, seed=6),
        call("variation", images=[given], steps=6, seed=7, sampler="ddpm"),
    ]
    jobs = [job for one in asked for job in engine.jobs(one)]
    alone = [carry(engine, [job])[0] for job in jobs]
    for found, expected in zip(carry(engine, jobs), alone, strict=True):
        assert np.array_equal(found.pixels, expected.pixels)
        assert found.values == expected.values


def test_a_network_that_sees_one_place_at_a_time_grows_as_if_it_were_larger() -> None:
    """Windows overlap; where all of them find the same, so does their mean."""
    narrow, given = ready(in_pixels()), typical(1)
    wide = ready(in_pixels(shape=(1, 12, 20)))
    margins = {"left": 5, "right": 7, "top": 1, "bottom": 3}
    job = narrow.jobs(call("outpaint", images=[given], canvas="grow", steps=6, **margins))[0]
    canvas = np.pad(given, ((0, 0), (1, 3), (5, 7)), mode="edge")
    mask = np.full((1, 12, 20), 255, np.uint8)
    mask[:, 1:9, 5:13] = 0
    same = wide.jobs(call("inpaint", images=[canvas], mask=mask, steps=6))[0]
    (found,), (expected,) = (
        pixels_of(carry(engine, [one])) for engine, one in ((narrow, job), (wide, same))
    )
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_what_grows_belongs_to_the_image() -> None:
    given = np.full(SHAPE, 200, np.uint8)
    found = grown(ready(constant()), given, left=6, top=2, steps=50)
    assert found.shape == (1, 10, 14)
    assert np.abs(found.astype(int) - 200).max() <= 24  # unrelated to it, 127 would be likely


def test_the_same_seed_grows_the_same_and_another_does_not() -> None:
    engine, given = ready(tiny_diffusion()), some_pixels(3, 8, 8, seed=1)
    first, again, other = (grown(engine, given, right=4, steps=4, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert (first[:, :, 8:] != other[:, :, 8:]).mean() > 0.2


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"left": 3}, "left", f"left must be a multiple of {PLACE}"),
        ({"left": 3}, "left", "2 and 4 are near"),
        ({}, "left", "outpaint needs a margin to fill"),
        ({"left": 200}, "left", "at most 256 pixels, 4 times its own 8 x 8"),
        ({"left": 2, "step_cache": 0.1}, "step_cache", "with canvas 'keep'"),
        ({"left": 2, "canvas": "shrink"}, "canvas", "keep"),
    ],
)
def test_growth_that_cannot_be_is_refused_with_what_can(
    fields: dict[str, Any], param: str, words: str
) -> None:
    asked = {"canvas": "grow", **fields}
    with pytest.raises(InvalidParameter) as caught:
        ready(tiny_diffusion()).jobs(call("outpaint", images=[some_pixels(3, 8, 8)], **asked))
    assert caught.value.param == param
    assert words in caught.value.message


def test_a_served_image_is_as_large_as_it_has_grown() -> None:
    """Through the loop, with its progress; a larger image has no previews."""
    backend = InProcessBackend(
        Shelf({"tiny-diffusion": tiny_diffusion}),
        discover(),
        settings=PoolSettings(drain_seconds=0.0),
    )
    asked = call(
        "outpaint",
        model="tiny-diffusion",
        images=[some_pixels(3, 8, 8)],
        canvas="grow",
        right=8,
        steps=4,
    )

    async def told() -> list[Event]:
        return [event async for event in backend.stream(asked, Watch(preview_every=1))]

    try:
        events = asyncio.run(asyncio.wait_for(told(), 60))
    finally:
        backend.close()
    assert not any(isinstance(event, Preview) for event in events)
    (finished,) = [event for event in events if isinstance(event, RowFinished)]
    assert finished.item.image is not None
    header = read_header(finished.item.image, ImageLimits())
    assert (header.width, header.height) == (16, 8)
