"""Autoencoders without a prior, and walks along single numbers of a latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from services.core.engine import Engine
from services.core.errors import InvalidParameter, UnsupportedTask
from services.core.network import OpenedModel
from services.core.parameters import Latents
from tests.engines import RowByRow, ask, call, floats, opened, pixels_of, ready, some_pixels
from tests.tiny_models import seeded, tiny_vae

IMAGE = some_pixels(1, 4, 4, seed=1)


def autoencoder() -> OpenedModel:
    encoder = seeded(lambda: nn.Linear(16, 3), 2)
    decoder = seeded(lambda: nn.Linear(3, 16), 3)

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        return {"z": encoder(image.flatten(1))}

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": torch.tanh(decoder(z)).view(-1, 1, 4, 4)}

    return opened(
        "vae",
        {
            "deterministic_encoder": RowByRow(encode, {"image": floats(1, 4, 4)}, ["z"]),
            "decoder": RowByRow(decode, {"z": floats(3)}, ["image"]),
        },
        resolution=(4, 4),
        options={"noise": {"std": 40}},
    )


@pytest.fixture
def engine() -> Engine:
    return ready(autoencoder())


def code_of(engine: Engine, image: np.ndarray) -> np.ndarray:
    return Latents(**ask(engine, "encode", images=[image])[0].values["latents"]).array()


def decoded(engine: Engine, code: np.ndarray) -> np.ndarray:
    network = engine.model.networks["decoder"]
    image = network(z=torch.from_numpy(code)[None])["image"][0]
    return ((image + 1) * 127.5).round().byte().numpy()


def test_an_image_is_carried_through_its_code(engine: Engine) -> None:
    values = ask(engine, "encode", images=[IMAGE])[0].values
    assert values["kind"] == "code"
    assert "log_variance" not in values
    expected = decoded(engine, code_of(engine, IMAGE))
    for name in ("reconstruct", "denoise"):
        assert np.array_equal(pixels_of(ask(engine, name, images=[IMAGE]))[0], expected)


def test_what_needs_a_prior_is_refused_with_the_reason(engine: Engine) -> None:
    for name in ("generate", "likelihood", "traverse"):
        with pytest.raises(UnsupportedTask, match="no distribution of its codes was learned"):
            engine.jobs(call(name, images=() if name == "generate" else [IMAGE]))
    info = engine.describe()
    assert info.likelihood == "none"
    assert set(info.tasks) == {"edit", "encode"}
    assert info.limits["noise_standard_deviation"] == 40


def test_a_path_goes_between_two_images_or_two_codes_and_nothing_else(engine: Engine) -> None:
    other = some_pixels(1, 4, 4, seed=2)
    codes = [code_of(engine, image) for image in (IMAGE, other)]
    path = pixels_of(ask(engine, "interpolate", images=[IMAGE, other], n=3, spherical=False))
    middle = decoded(engine, (codes[0] + codes[1]) / 2)
    assert np.abs(path[1].astype(int) - middle).max() <= 1
    given = [Latents.from_array(code).model_dump() for code in codes]
    assert np.array_equal(
        pixels_of(ask(engine, "interpolate", latents=given, n=3, spherical=False)), path
    )
    with pytest.raises(InvalidParameter, match="no prior to draw ends from"):
        engine.jobs(call("interpolate"))
    with pytest.raises(InvalidParameter, match="no prior to draw from") as caught:
        engine.jobs(call("interpolate", seeds=[1, 2]))
    assert caught.value.param == "seeds"
    assert "seeds" not in engine.describe().operations["interpolate"]["properties"]


def test_a_model_that_learned_to_take_no_noise_away_does_not_denoise() -> None:
    engine = ready(replace(autoencoder(), options={}))
    with pytest.raises(UnsupportedTask, match="not trained to denoise"):
        engine.jobs(call("denoise", images=[IMAGE]))
    with pytest.raises(UnsupportedTask, match="not trained to denoise"):
        ready(tiny_vae()).jobs(call("denoise", images=[IMAGE]))


def test_a_strip_changes_one_number_of_the_latent_and_no_other() -> None:
    engine = ready(tiny_vae())
    code = code_of(engine, IMAGE)
    values = [-3.0, float(code[1]), 2.0]
    strip = ask(engine, "traverse", images=[IMAGE], latent_index=1, values=values)
    assert [result.values["value"] for result in strip] == values
    for value, image in zip(values, pixels_of(strip), strict=True):
        moved = code.copy()
        moved[1] = value
        assert np.array_equal(image, decoded(engine, moved))
    assert np.array_equal(
        pixels_of(strip)[1], pixels_of(ask(engine, "reconstruct", images=[IMAGE]))[0]
    )


def test_a_strip_through_a_seed_goes_through_the_image_of_that_seed() -> None:
    model = tiny_vae()
    alone = replace(model, networks={"decoder": model.networks["decoder"]}, options={})
    for engine in (ready(model), ready(alone)):
        z = torch.randn(3, generator=torch.Generator().manual_seed(6))
        strip = pixels_of(ask(engine, "traverse", seed=6, latent_index=2, values=[float(z[2])]))
        assert np.array_equal(strip[0], pixels_of(ask(engine, "generate", seed=6))[0])
        given = Latents.from_array(z.numpy()).model_dump()
        again = ask(engine, "traverse", latents=given, latent_index=2, values=[float(z[2])])
        assert np.array_equal(pixels_of(again), strip)


def test_a_number_that_the_latent_does_not_have_is_refused() -> None:
    engine = ready(tiny_vae())
    with pytest.raises(InvalidParameter, match="3 numbers") as caught:
        ask(engine, "traverse", latent_index=3)
    assert caught.value.param == "latent_index"
