"""The GAN engine: labels, truncation, paths between seeds, and no likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidNetwork, InvalidParameter, UnsupportedTask
from services.core.network import OpenedModel
from services.core.parameters import Latents
from tests.engines import (
    RowByRow,
    ask,
    call,
    floats,
    integers,
    opened,
    pixels_of,
    ready,
    some_pixels,
)
from tests.tiny_models import tiny_gan

LABELS = ["red circle", "blue square", "Star"]


def transparent(options: Mapping[str, object], latents: int = 64) -> OpenedModel:
    """A generator that shows its latents and label: four values of 0.1 z, and the label."""

    def generate(z: Tensor, label: Tensor | None = None) -> Mapping[str, Tensor]:
        shown = torch.zeros(len(z)) if label is None else label.float() / 10
        return {"image": torch.cat([0.1 * z, shown[:, None]], 1).view(-1, 1, 1, latents + 1)}

    inputs = {"z": floats(latents)} | ({"label": integers()} if options.get("labels") else {})
    return opened(
        "gan",
        {"generator": RowByRow(generate, inputs, ["image"])},
        resolution=(1, latents + 1),
        options=options,
    )


@pytest.fixture
def engine() -> Engine:
    return ready(transparent({"labels": LABELS}))


def test_a_label_is_known_by_name_or_index_whatever_its_case(engine: Engine) -> None:
    named = pixels_of(ask(engine, "generate", label="Blue Square ", seed=4))
    numbered = pixels_of(ask(engine, "generate", label=1, seed=4))
    assert np.array_equal(named, numbered)
    other = ask(engine, "generate", label="star", seed=4)
    assert other[0].values["label"] == "Star"
    assert not np.array_equal(pixels_of(other), named)


def test_an_unknown_label_is_refused_with_near_ones(engine: Engine) -> None:
    with pytest.raises(InvalidParameter, match="knows blue square") as caught:
        ask(engine, "generate", label="blue squares!")
    assert caught.value.param == "label"
    for index in (3, -1):
        with pytest.raises(InvalidParameter, match="there are 3, from 0"):
            ask(engine, "generate", label=index)


def test_without_a_label_the_seed_draws_one_and_the_answer_names_it(engine: Engine) -> None:
    drawn = [ask(engine, "generate", seed=seed)[0] for seed in range(30)]
    assert {result.values["label"] for result in drawn} == set(LABELS)
    again = ask(engine, "generate", seed=3, label=drawn[3].values["label"])
    assert np.array_equal(pixels_of(again), pixels_of([drawn[3]]))


def test_n_images_are_those_of_consecutive_seeds(engine: Engine) -> None:
    several = ask(engine, "generate", n=3, seed=10, label=0)
    assert [result.values["seed"] for result in several] == [10, 11, 12]
    single = [ask(engine, "generate", seed=seed, label=0)[0] for seed in (10, 11, 12)]
    assert np.array_equal(pixels_of(several), pixels_of(single))


def latents_drawn(engine: Engine, truncation: float, count: int = 200) -> Tensor:
    jobs = [
        job
        for seed in range(count)
        for job in engine.jobs(call("generate", seed=seed, truncation=truncation))
    ]
    return torch.stack([trajectory.x for trajectory in engine.prepare(jobs)])


@pytest.mark.parametrize("truncation", [0.1, 0.5, 0.9])
def test_truncated_latents_are_a_truncated_normal_within_the_bound(
    engine: Engine, truncation: float
) -> None:
    z = latents_drawn(engine, truncation).flatten().numpy()
    bound = 2 * truncation
    assert np.abs(z).max() <= bound
    assert stats.kstest(z, stats.truncnorm(-bound, bound).cdf).pvalue > 1e-4


def test_without_truncation_latents_are_normal(engine: Engine) -> None:
    z = latents_drawn(engine, 1.0).flatten().numpy()
    assert np.abs(z).max() > 3
    assert stats.kstest(z, stats.norm.cdf).pvalue > 1e-4


@pytest.mark.parametrize("truncation", [1.0, 0.6])
@pytest.mark.parametrize("spherical", [True, False])
def test_a_path_between_seeds_begins_and_ends_at_their_images(
    engine: Engine, truncation: float, spherical: bool
) -> None:
    common = {"label": 1, "truncation": truncation}
    path = pixels_of(ask(engine, "interpolate", seeds=[5, 99], n=5, spherical=spherical, **common))
    ends = [pixels_of(ask(engine, "generate", seed=seed, **common))[0] for seed in (5, 99)]
    assert np.array_equal(path[0], ends[0])
    assert np.array_equal(path[-1], ends[1])
    assert not np.array_equal(path[2], path[0])
    assert len(path) == 5


def test_every_frame_of_a_path_shows_one_label(engine: Engine) -> None:
    frames = ask(engine, "interpolate", seeds=[5, 99], n=6, seed=2)
    assert len({frame.values["label"] for frame in frames}) == 1


def test_a_straight_path_lies_halfway_at_half_the_way(engine: Engine) -> None:
    z = [torch.linspace(-1, 1, 64), torch.linspace(2, 0, 64)]
    latents = [Latents.from_array(one.numpy()).model_dump() for one in z]
    jobs = engine.jobs(call("interpolate", latents=latents, n=3, spherical=False))
    assert torch.allclose(engine.prepare(jobs)[1].x, (z[0] + z[1]) / 2)


def test_the_clients_latents_are_the_latents(engine: Engine) -> None:
    z = torch.linspace(-5, 5, 64)
    for given in (z, z[None]):
        latents = Latents.from_array(given.numpy()).model_dump()
        pixels = pixels_of(ask(engine, "generate", latents=latents, label=0))[0]
        expected = ((0.1 * z + 1) / 2 * 255).round()
        assert pixels[0, 0, :64].tolist() == pytest.approx(expected.tolist(), abs=1)


@pytest.mark.parametrize("shape", [[4], [2, 64], [8, 8], [1, 1, 64]])
def test_latents_of_another_shape_are_refused_with_the_right_one(
    engine: Engine, shape: list[int]
) -> None:
    latents = Latents.from_array(np.zeros(shape, np.float32)).model_dump()
    with pytest.raises(InvalidParameter, match=r"this model takes \[64\]"):
        ask(engine, "generate", latents=latents)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_latents_that_are_no_numbers_are_refused(engine: Engine, bad: float) -> None:
    latents = Latents.from_array(np.full(64, bad, np.float32)).model_dump()
    with pytest.raises(InvalidParameter, match="finite"):
        ask(engine, "generate", latents=latents)


def test_a_likelihood_is_refused_with_the_reason_and_an_alternative(engine: Engine) -> None:
    with pytest.raises(UnsupportedTask, match=r"gives no image a density.*ask a flow"):
        engine.jobs(call("likelihood", images=[some_pixels(1, 1, 65)]))
    with pytest.raises(UnsupportedTask, match="no encoder"):
        engine.jobs(call("encode", images=[some_pixels(1, 1, 65)]))
    with pytest.raises(UnsupportedTask, match="offers generate, interpolate"):
        engine.jobs(call("inpaint"))


def test_an_unconditional_generator_takes_no_label() -> None:
    engine = ready(transparent({}))
    assert "label" not in ask(engine, "generate")[0].values
    assert engine.describe().conditioning == ("none",)
    with pytest.raises(InvalidParameter, match="unknown field 'label'"):
        ask(engine, "generate", label=0)


def test_a_model_says_what_it_can_do(engine: Engine) -> None:
    info = engine.describe()
    assert info.conditioning == ("label",)
    assert info.labels == tuple(LABELS)
    assert info.likelihood == "none"
    assert info.tasks == ("generate", "edit")
    assert info.operations["generate"]["properties"]["truncation"]["maximum"] == 1


def test_manifests_and_networks_that_do_not_fit_are_told_why() -> None:
    with pytest.raises(InvalidManifest, match="unknown field 'labelz'"):
        ready(transparent({"labelz": []}))
    with pytest.raises(InvalidNetwork, match=r"declares a latent of \[8\], the graph takes \[64\]"):
        ready(transparent({"latent": {"shape": [8]}}))
    with pytest.raises(InvalidNetwork, match=r"lacks \['label'\]"):
        ready(replace(transparent({}), options={"labels": LABELS}))
    with pytest.raises(InvalidNetwork, match="needs a network 'generator'"):
        ready(opened("gan", {}, resolution=(1, 65)))


def test_a_colour_image_has_the_models_shape() -> None:
    pixels = pixels_of(ask(ready(tiny_gan()), "generate", seed=1))[0]
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 10
