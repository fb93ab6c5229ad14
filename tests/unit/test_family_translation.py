"""Image-to-image generators: at the model's size or at any, in tiles, in any company."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.errors import (
    InvalidManifest,
    InvalidNetwork,
    InvalidParameter,
    UnsupportedTask,
)
from services.core.images import ImageLimits, decode
from services.core.job import Call, Task
from services.core.network import OpenedModel
from services.core.pixels import to_pixels, to_tensor
from services.families import discover
from services.families.translation.engine import MOST_SIDE, SLICE_TILES
from services.sampling.enlarging import enlarged
from services.sampling.tiling import tiling
from services.serving.cascade import Cascades
from services.serving.in_process import InProcessBackend
from tests.engines import (
    RowByRow,
    ask,
    call,
    carry,
    floats,
    opened,
    pixels_of,
    ready,
    some_pixels,
)
from tests.tiny_models import Shelf, tiny_diffusion, tiny_translation

TILE = 4


def repeating(factor: int = 3, **options: Any) -> OpenedModel:
    """Shows every pixel of the source as a block: what each place becomes, no other decides."""

    def repeat(source: Tensor) -> Mapping[str, Tensor]:
        assert source.shape[2:] == (TILE, TILE)
        return {"image": source.repeat_interleave(factor, 2).repeat_interleave(factor, 3)}

    return opened(
        "translation",
        {"generator": RowByRow(repeat, {"source": floats(3, TILE, TILE)}, ["image"])},
        resolution=(factor * TILE, factor * TILE),
        channels=3,
        options={"factor": factor, **options},
        name="tiny-enlarger",
    )


def negating(**options: Any) -> OpenedModel:
    """Gives the negative of a picture of 4 rows and 6 columns."""

    def negate(source: Tensor) -> Mapping[str, Tensor]:
        return {"image": -source}

    return opened(
        "translation",
        {"generator": RowByRow(negate, {"source": floats(3, 4, 6)}, ["image"])},
        resolution=(4, 6),
        channels=3,
        options=options,
    )


def network_of(model: OpenedModel) -> RowByRow:
    network = model.networks["generator"]
    assert isinstance(network, RowByRow)
    return network


def blocks(image: Any, factor: int) -> Any:
    return image.repeat(factor, axis=1).repeat(factor, axis=2)


def test_every_image_is_translated_by_itself_in_one_evaluation() -> None:
    model = negating()
    engine = ready(model)
    images = [some_pixels(3, 4, 6, seed=i) for i in range(5)]
    batch = engine.prepare(engine.jobs(call("translate", images=images)))
    results = engine.decode(batch)
    assert network_of(model).batches == [5]
    for image, found in zip(images, pixels_of(results), strict=True):
        assert np.array_equal(found, 255 - image)


def test_a_larger_drawing_is_brought_to_the_models_size() -> None:
    image = some_pixels(3, 4, 6)
    (found,) = pixels_of(ask(ready(negating()), "translate", images=[blocks(image, 9)]))
    assert np.array_equal(found, 255 - image)


def test_a_grey_drawing_is_a_colour_drawing_without_colour() -> None:
    image = some_pixels(1, 4, 6)
    (found,) = pixels_of(ask(ready(negating()), "translate", images=[image]))
    assert np.array_equal(found, np.repeat(255 - image, 3, axis=0))


def test_a_blank_sheet_is_refused_with_what_to_draw() -> None:
    engine = ready(negating(takes="an outline", least_contrast=0.2))
    sheet = np.full((3, 40, 60), 255, np.uint8)
    faint = sheet.copy()
    faint[1, 10] = 0  # a line a pixel wide, of 40
    for drawing in (sheet, faint):
        with pytest.raises(InvalidParameter, match=r"takes an outline.*broader pen") as caught:
            engine.jobs(call("translate", images=[drawing]))
        assert caught.value.param == "image"
    broad = sheet.copy()
    broad[1, 10:20] = 0
    assert ask(engine, "translate", images=[broad])


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (4, 13), (1, 1), (2, 7), (16, 11)])
def test_an_image_of_any_size_is_enlarged(size: tuple[int, int]) -> None:
    image = some_pixels(3, *size)
    (found,) = pixels_of(ask(ready(repeating()), "super_resolution", images=[image]))
    assert np.array_equal(found, blocks(image, 3))


def test_a_large_image_is_enlarged_in_slices_of_tiles() -> None:
    model = repeating()
    engine = ready(model)
    image = some_pixels(3, 16, 13)
    jobs = engine.jobs(call("super_resolution", images=[image]))
    count = len(tiling(16, 13, TILE).corners)
    (trajectory,) = engine.prepare(jobs)
    assert trajectory.slices_left == -(-count // SLICE_TILES) > 1
    while trajectory.slices_left:
        engine.decode_slice([trajectory])
    assert sum(network_of(model).batches) == count
    assert max(network_of(model).batches) <= SLICE_TILES
    (found,) = pixels_of(engine.decode([trajectory]))
    assert sum(network_of(model).batches) == count  # nothing was made twice
    (alone,) = pixels_of(carry(engine, jobs))
    assert np.array_equal(found, alone)


def test_images_of_several_sizes_share_evaluations_and_are_the_same_as_alone() -> None:
    model = repeating()
    engine = ready(model)
    images = [some_pixels(3, *size, seed=i) for i, size in enumerate([(9, 9), (4, 20), (30, 7)])]
    jobs = engine.jobs(call("super_resolution", images=images))
    batch = engine.prepare(jobs)
    while left := [t for t in batch if t.slices_left]:
        engine.decode_slice(left)
    for job, found in zip(jobs, pixels_of(engine.decode(batch)), strict=True):
        (alone,) = pixels_of(carry(engine, [job]))
        assert np.array_equal(found, alone)
    assert max(network_of(model).batches) > SLICE_TILES


def test_tiles_meet_without_a_seam() -> None:
    """Of a network that looks around, tiles differ at their edges; the ramps hide it."""

    def smooth(source: Tensor) -> Mapping[str, Tensor]:
        return {"image": enlarged(source[0], 2)[None]}

    model = opened(
        "translation",
        {"generator": RowByRow(smooth, {"source": floats(3, 16, 16)}, ["image"])},
        resolution=(32, 32),
        channels=3,
        options={"factor": 2},
    )
    steps = torch.linspace(0, 255, 40).round().to(torch.uint8)
    image = steps.expand(3, 40, 40).contiguous().numpy()
    (found,) = pixels_of(ask(ready(model), "super_resolution", images=[image]))
    (given,) = to_tensor([image], (-1.0, 1.0))
    whole = to_pixels(enlarged(given, 2)[None], (-1.0, 1.0))[0]
    assert np.abs(found.astype(int) - whole).max() <= 2


@pytest.mark.parametrize("size", [(MOST_SIDE + 1, 8), (8, MOST_SIDE + 1)])
def test_an_image_that_is_too_large_is_refused_with_the_sizes_that_fit(
    size: tuple[int, int],
) -> None:
    engine = ready(repeating())
    with pytest.raises(InvalidParameter, match=f"from 1 to {MOST_SIDE}") as caught:
        engine.jobs(call("super_resolution", images=[some_pixels(3, *size)]))
    assert caught.value.param == "image"


def test_what_it_cannot_do_is_refused_with_what_can() -> None:
    enlarger, translator = ready(repeating()), ready(negating(takes="an outline"))
    with pytest.raises(UnsupportedTask, match="cascade 'tiny-enlarger'"):
        enlarger.jobs(call("generate"))
    with pytest.raises(UnsupportedTask, match=r"takes an outline \(edit with operation translate"):
        translator.jobs(call("generate"))
    with pytest.raises(UnsupportedTask, match="no likelihood; ask a flow"):
        translator.jobs(call("likelihood", images=[some_pixels(3, 4, 6)]))
    with pytest.raises(UnsupportedTask, match="it offers translate"):
        translator.jobs(call("super_resolution", images=[some_pixels(3, 4, 6)]))
    with pytest.raises(UnsupportedTask, match="it offers super_resolution"):
        enlarger.jobs(call("translate", images=[some_pixels(3, 4, 4)]))


def test_what_the_model_takes_can_be_read() -> None:
    found = ready(repeating(takes="a small photograph")).describe()
    assert found.limits["takes"] == "a small photograph"
    assert found.limits["factor"] == 3
    assert found.limits["input_sides"] == [1, MOST_SIDE]
    assert found.likelihood == "none"
    assert found.tasks == ("edit",)
    assert "factor" not in ready(negating()).describe().limits


@pytest.mark.parametrize(
    "options", [{"factor": 0}, {"factor": 9}, {"factor": 5}, {"least_contrast": 2}, {"colour": 1}]
)
def test_a_manifest_that_does_not_fit_is_refused(options: dict[str, Any]) -> None:
    model = repeating()
    wrong = opened(
        "translation",
        model.networks,
        resolution=model.resolution,
        channels=3,
        options={**model.options, **options},
    )
    with pytest.raises(InvalidManifest):
        ready(wrong)


def test_a_network_of_another_size_is_refused_with_the_right_one() -> None:
    model = repeating()
    wrong = opened(
        "translation",
        model.networks,
        resolution=model.resolution,
        channels=3,
        options={"factor": 2},
    )
    with pytest.raises(InvalidNetwork, match=r"needs \[3, 6, 6\]"):
        ready(wrong)


def test_it_is_the_second_model_of_a_cascade() -> None:
    """What a request for a cascade gives is the first model's image, each pixel a block."""
    shelf = Shelf({"tiny-diffusion": tiny_diffusion, "tiny-enlarger": repeating})
    backend = InProcessBackend(shelf, discover())
    try:
        asked = {"prompt": "red circle", "seed": 5, "n": 2}
        first = Call("a", "tiny-diffusion", Task.GENERATE, parameters=asked)
        plain = asyncio.run(backend.run(first))
        both = Call(
            "b", "tiny-diffusion", Task.GENERATE, parameters={**asked, "cascade": "tiny-enlarger"}
        )
        large = asyncio.run(Cascades(backend).run(both))
    finally:
        backend.close()
    for small, item in zip(plain.items, large.items, strict=True):
        assert small.image is not None
        assert item.image is not None
        expected = blocks(decode(small.image, None, 3, ImageLimits()), 3)
        assert np.array_equal(decode(item.image, None, 3, ImageLimits()), expected)
        assert item.values["seed"] == small.values["seed"]


def test_a_seed_changes_nothing() -> None:
    engine = ready(tiny_translation())
    image = some_pixels(3, 8, 8)
    one, other = (
        pixels_of(ask(engine, "translate", images=[image], seed=seed))[0] for seed in (1, 2)
    )
    assert np.array_equal(one, other)
