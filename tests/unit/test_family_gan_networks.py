"""What stands beside a generator: InfoGAN's codes and Q, a critic, a VAE-GAN's encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidNetwork, InvalidParameter, UnsupportedTask
from services.core.network import OpenedModel
from services.core.parameters import Latents
from tests.engines import (
    RowByRow,
    ask,
    call,
    carry,
    evaluated,
    floats,
    integers,
    opened,
    pixels_of,
    ready,
    some_pixels,
)

CATEGORIES, CONTINUOUS, LATENTS = 4, 2, 3
SIDE = (1, 8)


def shown(values: Tensor) -> Tensor:
    """Rows of eight numbers as images of eight pixels, a tenth of each."""
    return (0.1 * values).view(-1, 1, *SIDE)


def coded(*, recognition: bool = True, options: Mapping[str, Any] | None = None) -> OpenedModel:
    """A generator that shows its noise and its codes, and a Q that reads the codes off again."""

    def generate(z: Tensor, category: Tensor, continuous: Tensor) -> Mapping[str, Tensor]:
        rest = torch.zeros(len(z), 2)
        return {"image": shown(torch.cat([z, category[:, None].float(), continuous, rest], 1))}

    def read(image: Tensor) -> Mapping[str, Tensor]:
        values = 10 * image.view(-1, 8)
        apart = values[:, LATENTS, None] - torch.arange(CATEGORIES)
        return {
            "category_logits": -10 * apart.square(),
            "continuous_mean": values[:, 4:6],
            "continuous_log_variance": torch.full((len(image), CONTINUOUS), -2.0),
        }

    inputs = {"z": floats(LATENTS), "category": integers(), "continuous": floats(CONTINUOUS)}
    outputs = ["category_logits", "continuous_mean", "continuous_log_variance"]
    networks = {"generator": RowByRow(generate, inputs, ["image"])}
    if recognition:
        networks["recognition"] = RowByRow(read, {"image": floats(1, *SIDE)}, outputs)
    spec = {"codes": {"categories": CATEGORIES, "continuous": CONTINUOUS}}
    return opened("gan", networks, resolution=SIDE, options=spec if options is None else options)


def judged(reference: list[float] | None = None) -> OpenedModel:
    """A generator that shows its noise, and a critic that likes bright images."""

    def generate(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": shown(z)}

    def score(image: Tensor) -> Mapping[str, Tensor]:
        return {"realness": 5 * image.flatten(1).mean(1)}

    networks = {
        "generator": RowByRow(generate, {"z": floats(8)}, ["image"]),
        "critic": RowByRow(score, {"image": floats(1, *SIDE)}, ["realness"]),
    }
    options = {} if reference is None else {"reference_realness": reference}
    return opened("gan", networks, resolution=SIDE, options=options)


def encoded() -> OpenedModel:
    """A generator that shows its noise, and an encoder that reads it off again."""

    def generate(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": shown(z)}

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        mean = 10 * image.flatten(1)
        return {"mean": mean, "log_variance": torch.full_like(mean, -3.0)}

    networks = {
        "generator": RowByRow(generate, {"z": floats(8)}, ["image"]),
        "encoder": RowByRow(encode, {"image": floats(1, *SIDE)}, ["mean", "log_variance"]),
    }
    return opened("gan", networks, resolution=SIDE)


@pytest.fixture
def infogan() -> Engine:
    return ready(coded())


def test_codes_that_are_named_are_the_codes_and_the_answer_says_them(infogan: Engine) -> None:
    (made,) = ask(infogan, "generate", category=3, continuous=[0.5, -1.0], seed=2)
    assert made.values["category"] == 3
    assert made.values["continuous"] == [0.5, -1.0]
    assert made.pixels is not None
    found = made.pixels[0, 0, LATENTS : LATENTS + 3] / 127.5 - 1
    assert found == pytest.approx([0.3, 0.05, -0.1], abs=0.005)


def test_codes_left_out_are_drawn_by_the_seed_and_each_whether_or_not_others_are_named(
    infogan: Engine,
) -> None:
    drawn = [ask(infogan, "generate", seed=seed)[0].values for seed in range(60)]
    assert {values["category"] for values in drawn} == set(range(CATEGORIES))
    assert all(-1 <= code <= 1 for values in drawn for code in values["continuous"])
    free = drawn[5]
    named = ask(infogan, "generate", seed=5, category=(free["category"] + 1) % CATEGORIES)[0]
    assert named.values["continuous"] == free["continuous"]
    again = ask(infogan, "generate", seed=5, **{k: free[k] for k in ("category", "continuous")})
    assert np.array_equal(pixels_of(again), pixels_of(ask(infogan, "generate", seed=5)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"category": CATEGORIES}, "category"),
        ({"category": -1}, "category"),
        ({"continuous": [0.0]}, "continuous"),
        ({"continuous": [0.0, 11.0]}, "continuous.1"),
        ({"continuous": [0.0, float("nan")]}, "continuous.1"),
        ({"label": 0}, "label"),
    ],
)
def test_codes_that_the_model_does_not_have_are_refused_by_name(
    infogan: Engine, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ask(infogan, "generate", **fields)
    assert caught.value.param == param


def test_the_schema_says_which_codes_there_are(infogan: Engine) -> None:
    info = infogan.describe()
    assert info.conditioning == ("codes",)
    fields = info.operations["generate"]["properties"]
    assert fields["category"]["anyOf"][0]["maximum"] == CATEGORIES - 1
    assert fields["continuous"]["anyOf"][0]["maxItems"] == CONTINUOUS
    names = info.operations["traverse"]["properties"]["code"]["enum"]
    assert names == ["category", "continuous_0", "continuous_1", "latent"]
    assert "codes" not in ready(judged()).describe().conditioning


def test_q_reads_the_codes_that_an_image_was_made_from(infogan: Engine) -> None:
    made = ask(infogan, "generate", n=4, seed=9)
    read = ask(infogan, "encode", images=pixels_of(made))
    for image, found in zip(made, read, strict=True):
        assert found.pixels is None
        assert found.values["category"] == image.values["category"]
        assert sum(found.values["category_probabilities"]) == pytest.approx(1, abs=1e-5)
        assert found.values["continuous"] == pytest.approx(image.values["continuous"], abs=0.05)
        assert found.values["continuous_std"] == pytest.approx([np.exp(-1)] * 2)
    assert infogan.describe().operations["encode"]["x-gives"] == [
        "category",
        "category_probabilities",
        "continuous",
    ]


def test_a_strip_of_categories_goes_through_all_of_them_and_changes_nothing_else(
    infogan: Engine,
) -> None:
    strip = ask(infogan, "traverse", seed=6)
    assert [frame.values["category"] for frame in strip] == list(range(CATEGORIES))
    assert [frame.values["value"] for frame in strip] == list(range(CATEGORIES))
    (alone,) = ask(infogan, "generate", seed=6, category=2)
    assert np.array_equal(pixels_of(strip)[2], pixels_of([alone])[0])


def test_a_strip_of_a_continuous_code_goes_over_its_range(infogan: Engine) -> None:
    strip = ask(infogan, "traverse", code="continuous_1", n=3, category=1, seed=6)
    fixed = ask(infogan, "generate", seed=6)[0].values["continuous"][0]
    assert [frame.values["continuous"] for frame in strip] == [[fixed, v] for v in (-1, 0, 1)]
    given = ask(infogan, "traverse", code="continuous_0", values=[0.25, 2.0], seed=6)
    assert [frame.values["continuous"][0] for frame in given] == [0.25, 2.0]


def test_a_strip_of_the_noise_leaves_the_codes_alone(infogan: Engine) -> None:
    strip = ask(infogan, "traverse", code="latent", latent_index=1, n=3, seed=6)
    assert len({frame.values["category"] for frame in strip}) == 1
    first, last = pixels_of(strip)[0].flatten(), pixels_of(strip)[-1].flatten()
    assert (first != last).nonzero()[0].tolist() == [1]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"code": "slant"}, "continuous_0"),
        ({"values": [0.5]}, "whole numbers from 0 to 3"),
        ({"values": [4]}, "whole numbers from 0 to 3"),
        ({"code": "continuous_0", "values": [10.5]}, "from -10 to 10"),
        ({"n": 3}, "a category takes values"),
        ({"latent_index": 0}, "goes with code 'latent'"),
        ({"code": "latent", "latent_index": 3}, "have 3 numbers"),
    ],
)
def test_a_strip_that_cannot_be_is_refused_with_what_would_be_right(
    infogan: Engine, fields: dict[str, Any], match: str
) -> None:
    with pytest.raises(InvalidParameter, match=match):
        ask(infogan, "traverse", **fields)


def test_a_path_shows_one_set_of_codes(infogan: Engine) -> None:
    frames = ask(infogan, "interpolate", seeds=[1, 2], n=4, category=2)
    assert {frame.values["category"] for frame in frames} == {2}
    assert len({tuple(frame.values["continuous"]) for frame in frames}) == 1


def test_without_q_codes_are_taken_but_not_read() -> None:
    engine = ready(coded(recognition=False))
    assert ask(engine, "generate", category=1)[0].values["category"] == 1
    with pytest.raises(UnsupportedTask, match="no encoder"):
        ask(engine, "encode", images=[some_pixels(1, *SIDE)])


def test_codes_in_the_manifest_and_in_the_graph_must_agree() -> None:
    with pytest.raises(InvalidNetwork, match="category"):
        ready(
            opened("gan", judged().networks, resolution=SIDE, options={"codes": {"categories": 4}})
        )
    with pytest.raises(InvalidManifest, match="categories"):
        ready(coded(options={"codes": {"continuous": 2}}))


def test_every_image_comes_with_the_realness_that_its_upload_would_be_given() -> None:
    engine = ready(judged())
    made = ask(engine, "generate", n=3, seed=4)
    scores = [result.values["realness"] for result in made]
    assert len(set(scores)) == 3
    uploaded = ask(engine, "encode", images=pixels_of(made))
    assert [result.values["realness"] for result in uploaded] == scores
    assert all("latents" not in result.values for result in uploaded)
    assert all("realness_percentile" not in result.values for result in uploaded)


def test_a_reference_says_where_a_score_lies_among_held_out_ones() -> None:
    engine = ready(judged([-5.0, 0.0, 5.0]))
    black, gray, white = (np.full((1, *SIDE), value, np.uint8) for value in (0, 128, 255))
    found = ask(engine, "encode", images=[black, gray, white])
    percentiles = [result.values["realness_percentile"] for result in found]
    assert percentiles == pytest.approx([0, 50, 100], abs=0.3)


def test_a_critics_score_is_not_offered_as_a_likelihood() -> None:
    engine = ready(judged())
    assert engine.describe().likelihood == "none"
    with pytest.raises(UnsupportedTask, match="critic's score, no density"):
        ask(engine, "likelihood", images=[some_pixels(1, *SIDE)])


def test_readings_of_a_batch_are_one_evaluation() -> None:
    engine = ready(judged())
    jobs = engine.jobs(call("encode", images=[some_pixels(1, *SIDE, seed=i) for i in range(3)]))
    engine.decode(engine.prepare(jobs))
    assert evaluated(engine, "critic") == [3]
    assert evaluated(engine, "generator") == []


@pytest.fixture
def vae_gan() -> Engine:
    return ready(encoded())


def gray(seed: int) -> Any:
    """An image that the tiny generator can make."""
    return np.random.default_rng(seed).integers(90, 170, (1, *SIDE)).astype(np.uint8)


def test_an_image_is_reconstructed_through_its_latents(vae_gan: Engine) -> None:
    image = gray(1)
    (again,) = ask(vae_gan, "reconstruct", images=[image])
    assert np.abs(pixels_of([again])[0].astype(int) - image).max() <= 1
    (found,) = ask(vae_gan, "encode", images=[image])
    assert found.values["kind"] == "posterior_mean"
    (made,) = ask(vae_gan, "generate", latents=found.values["latents"])
    assert np.array_equal(pixels_of([made])[0], pixels_of([again])[0])


def test_a_path_and_a_strip_go_through_images(vae_gan: Engine) -> None:
    first, second = gray(1), gray(2)
    path = pixels_of(ask(vae_gan, "interpolate", images=[first, second], n=3))
    assert np.abs(path[0].astype(int) - first).max() <= 1
    assert np.abs(path[-1].astype(int) - second).max() <= 1
    strip = pixels_of(ask(vae_gan, "traverse", images=[first], latent_index=7, values=[0.0, 1.0]))
    assert np.abs(strip[0].astype(int) - first)[..., :7].max() <= 1
    assert strip[0][0, 0, 7] < strip[1][0, 0, 7]


def test_images_beside_another_source_are_refused(vae_gan: Engine) -> None:
    latents = Latents.from_array(np.zeros(8, np.float32)).model_dump()
    for name, count in (("traverse", 1), ("interpolate", 2)):
        given = latents if name == "traverse" else [latents, latents]
        with pytest.raises(InvalidParameter, match="give either") as caught:
            ask(vae_gan, name, images=[gray(i) for i in range(count)], latents=given)
        assert caught.value.param == "images"


def test_a_vae_gan_says_why_it_bounds_no_likelihood(vae_gan: Engine) -> None:
    with pytest.raises(UnsupportedTask, match=r"trained by an opponent.*ask a flow"):
        ask(vae_gan, "likelihood", images=[gray(1)])


@pytest.mark.parametrize("build", [coded, judged, encoded])
def test_rows_of_all_operations_share_batches_and_change_nobody(build: Any) -> None:
    engine = ready(build())
    jobs = []
    for seed in range(3):
        for name, kind in engine.operations().items():
            images = [gray(seed)] if kind.images_needed[0] else []
            jobs += engine.jobs(call(name, images=images, seed=seed))
    together = engine.prepare(jobs)
    by_kind: dict[Any, list[int]] = {}
    for i, trajectory in enumerate(together):
        by_kind.setdefault(trajectory.workload.decode, []).append(i)
    for places in by_kind.values():
        for i, result in zip(places, engine.decode([together[i] for i in places]), strict=True):
            (alone,) = carry(engine, [jobs[i]])
            assert dict(result.values) == dict(alone.values)
            assert (result.pixels is None) == (alone.pixels is None)
            if result.pixels is not None and alone.pixels is not None:
                assert np.array_equal(result.pixels, alone.pixels)


def test_the_rehearsal_measures_generating_and_reading() -> None:
    for build in (coded, judged, encoded):
        engine = ready(build())
        kinds = {engine.workload(job).decode for job in engine.rehearsal()}
        assert kinds == {"generator", "reading"}
