"""A GAN that grew: any resolution of its growth, and any moment of a fade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidParameter
from services.core.network import OpenedModel
from tests.engines import RowByRow, ask, call, carry, floats, opened, pixels_of, ready

SIDES = (4, 8, 16)


def grown(
    sides: Sequence[int] = SIDES, *, side: int = 16, critic: bool = False, latents: int = 2
) -> OpenedModel:
    """A generator of flat images whose brightness is its noise, and grows by 0.1 a stage."""

    def generate(z: Tensor) -> Mapping[str, Tensor]:
        flat = [
            (0.1 * z[:, :1] + 0.1 * stage)[:, :, None, None].expand(-1, 1, width, width)
            for stage, width in enumerate(SIDES)
        ]
        return dict(zip(("image_4", "image_8", "image"), flat, strict=True))

    outputs = ["image_4", "image_8", "image"]
    networks = {"generator": RowByRow(generate, {"z": floats(latents)}, outputs)}
    if critic:
        networks["critic"] = RowByRow(
            lambda image: {"realness": image.flatten(1).mean(1)},
            {"image": floats(1, side, side)},
            ["realness"],
        )
    options = {"growth": {"resolutions": list(sides)}}
    return opened("gan", networks, resolution=(side, side), options=options)


@pytest.fixture
def engine() -> Engine:
    return ready(grown())


def level(engine: Engine, **fields: Any) -> float:
    """The brightness of the image of seed 3, in the network's range."""
    image = pixels_of(ask(engine, "generate", seed=3, **fields))[0]
    assert len(np.unique(image)) == 1
    return float(image.flat[0]) / 255 * 2 - 1


def test_an_image_has_the_side_that_was_asked_for_and_the_last_one_unasked(engine: Engine) -> None:
    shapes = {side: pixels_of(ask(engine, "generate", resolution=side))[0].shape for side in SIDES}
    assert shapes == {side: (1, side, side) for side in SIDES}
    assert pixels_of(ask(engine, "generate"))[0].shape == (1, 16, 16)


def test_a_fade_goes_from_the_resolution_below_doubled_to_this_one(engine: Engine) -> None:
    ends = [level(engine, resolution=4), level(engine, resolution=8)]
    assert level(engine, resolution=8, alpha=0.0) == ends[0]
    assert level(engine, resolution=8, alpha=1.0) == ends[1]
    halfway = level(engine, resolution=8, alpha=0.5)
    assert halfway == pytest.approx(sum(ends) / 2, abs=1 / 127)
    assert level(engine, resolution=16, alpha=0.25) == pytest.approx(ends[1] + 0.025, abs=1 / 127)


def test_alpha_doubles_each_pixel_of_the_resolution_below() -> None:
    def generate(z: Tensor) -> Mapping[str, Tensor]:
        ramp = torch.linspace(-1, 1, 16).view(1, 1, 4, 4).expand(len(z), -1, -1, -1)
        return {"image_4": ramp, "image": torch.zeros(len(z), 1, 8, 8)}

    network = RowByRow(generate, {"z": floats(2)}, ["image_4", "image"])
    options = {"growth": {"resolutions": [4, 8]}}
    engine = ready(opened("gan", {"generator": network}, resolution=(8, 8), options=options))
    small = pixels_of(ask(engine, "generate", resolution=4))[0]
    faded = pixels_of(ask(engine, "generate", alpha=0.0))[0]
    assert np.array_equal(faded, small.repeat(2, axis=1).repeat(2, axis=2))


def test_rows_of_one_batch_may_be_at_different_stages(engine: Engine) -> None:
    asks = [{"resolution": 4}, {"resolution": 16, "alpha": 0.3}, {}, {"resolution": 8}]
    jobs = [
        job
        for seed, fields in enumerate(asks)
        for job in engine.jobs(call("generate", seed=seed, **fields))
    ]
    together = carry(engine, jobs)
    for seed, (fields, result) in enumerate(zip(asks, together, strict=True)):
        alone = ask(engine, "generate", seed=seed, **fields)
        assert np.array_equal(result.pixels, pixels_of(alone)[0])


@pytest.mark.parametrize("operation", ["interpolate", "traverse"])
def test_strips_are_made_at_any_stage(engine: Engine, operation: str) -> None:
    fields = {"latent_index": 0} if operation == "traverse" else {}
    strip = pixels_of(ask(engine, operation, n=3, resolution=8, alpha=0.5, **fields))
    assert [image.shape for image in strip] == [(1, 8, 8)] * 3


def test_a_resolution_that_is_none_of_the_growth_is_refused_with_those_that_are(
    engine: Engine,
) -> None:
    with pytest.raises(InvalidParameter, match="4, 8 or 16") as caught:
        ask(engine, "generate", resolution=12)
    assert caught.value.param == "resolution"


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_a_fade_outside_its_range_is_refused(engine: Engine, alpha: float) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ask(engine, "generate", alpha=alpha)
    assert caught.value.param == "alpha"


def test_the_smallest_resolution_fades_from_nothing(engine: Engine) -> None:
    with pytest.raises(InvalidParameter, match=r"no resolution below 4.* 8, 16") as caught:
        ask(engine, "generate", resolution=4, alpha=0.5)
    assert caught.value.param == "alpha"
    ask(engine, "generate", resolution=4, alpha=1.0)


def test_a_model_says_the_resolutions_of_its_growth(engine: Engine) -> None:
    described = engine.describe()
    assert described.resolution == (16, 16)
    assert described.limits["resolutions"] == [4, 8, 16]
    fields = described.operations["generate"]["properties"]
    assert fields["resolution"]["enum"] == [4, 8, 16]
    assert fields["alpha"]["maximum"] == 1


def test_a_model_that_did_not_grow_has_no_such_fields() -> None:
    network = RowByRow(lambda z: {"image": z.view(-1, 1, 1, 2)}, {"z": floats(2)}, ["image"])
    engine = ready(opened("gan", {"generator": network}, resolution=(1, 2)))
    for field in ({"resolution": 8}, {"alpha": 0.5}):
        with pytest.raises(InvalidParameter):
            ask(engine, "generate", **field)


def test_a_manifest_whose_growth_is_none_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="twice the one before"):
        ready(grown((4, 8, 12)))
    with pytest.raises(InvalidManifest, match="growth ends at 16 x 16"):
        ready(grown(side=32))
    with pytest.raises(InvalidManifest, match="a critic judges images of one size"):
        ready(grown(critic=True))
