"""Style-based generators: spaces, truncation, noise, mixing, attributes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidNetwork, InvalidParameter, UnsupportedTask
from services.core.images import Pixels
from services.core.parameters import Latents
from services.core.pixels import to_pixels
from tests.engines import ask, call, pixels_of, ready, some_pixels
from tests.tiny_stylegan import SIDE, Z, style_networks, stylegan_options, tiny_stylegan, without

MAPPING, STYLES, SYNTHESIS = style_networks()
LAYERS, K = len(SYNTHESIS.style_channels), SYNTHESIS.noise_size
IMAGE = some_pixels(3, SIDE, SIDE)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ready(tiny_stylegan())


def image(engine: Engine, name: str = "generate", **what: Any) -> Pixels:
    return pixels_of(ask(engine, name, **what))[0]


def wire(values: Tensor) -> dict[str, Any]:
    return Latents.from_array(values.detach().numpy()).model_dump()


def draws(seed: int) -> tuple[Tensor, Tensor]:
    """z and noise, as a seed draws them."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(Z, generator=source), torch.randn(K, generator=source)


def drawn(w: Tensor, noise: Tensor | None = None, *, delta: Tensor | None = None) -> Pixels:
    """The image of styles ``[LAYERS, D]``, by the networks themselves."""
    with torch.no_grad():
        s = STYLES(w[None]) + (0 if delta is None else delta)
        image = SYNTHESIS(s, torch.zeros(1, K) if noise is None else noise[None])
    return to_pixels(image, (-1, 1))[0]


def w_of(seed: int) -> Tensor:
    with torch.no_grad():
        w: Tensor = MAPPING(draws(seed)[0][None])
    return w.expand(LAYERS, -1)


def test_a_seed_draws_z_and_then_the_noise(engine: Engine) -> None:
    assert np.array_equal(image(engine, seed=5), drawn(w_of(5), draws(5)[1]))


def test_noise_is_scaled_and_left_out_where_latents_are_given(engine: Engine) -> None:
    assert np.array_equal(
        image(engine, seed=5, noise_strength=0.5), drawn(w_of(5), 0.5 * draws(5)[1])
    )
    z = wire(draws(5)[0])
    assert np.array_equal(image(engine, seed=5, latents=z), drawn(w_of(5)))
    assert np.array_equal(image(engine, seed=5, latents=z, noise_strength=1), image(engine, seed=5))


def test_truncation_leads_to_the_mean_of_w(engine: Engine) -> None:
    mean = torch.tensor(stylegan_options()["w_mean"]).expand(LAYERS, -1)
    what = {"seed": 5, "noise_strength": 0}
    half = mean + 0.5 * (w_of(5) - mean)
    assert np.array_equal(image(engine, truncation=0.5, **what), drawn(half))
    assert np.array_equal(image(engine, truncation=0, **what), drawn(mean))


def test_every_space_gives_the_same_image_told_by_its_shape_or_by_name(engine: Engine) -> None:
    w = w_of(5)
    places = {"z": draws(5)[0], "w": w[0], "w+": w, "s": STYLES(w[None])[0]}
    for space, latents in places.items():
        for named in ({}, {"latent_space": space}):
            found = image(engine, latents=wire(latents), **named)
            assert np.array_equal(found, drawn(w)), (space, named)


def test_what_encode_finds_generate_takes_back(engine: Engine) -> None:
    (found,) = ask(engine, "encode", images=[IMAGE])
    again = image(engine, "reconstruct", images=[IMAGE])
    assert found.values["latent_space"] == "w+"
    assert np.array_equal(image(engine, latents=found.values["latents"]), again)
    assert np.array_equal(image(engine, latents=found.values["styles"]), again)


def test_a_style_mix_takes_coarse_layers_of_the_first_and_fine_ones_of_the_second(
    engine: Engine,
) -> None:
    mixed = torch.cat([w_of(1)[:2], w_of(2)[2:]])
    noise = draws(1)[1]
    assert np.array_equal(image(engine, "style_mix", seeds=[1, 2], layer=2), drawn(mixed, noise))
    assert np.array_equal(
        image(engine, "style_mix", seeds=[1, 2], layer=LAYERS), image(engine, seed=1)
    )
    ends = [wire(w_of(1)), wire(draws(2)[0])]
    assert np.array_equal(image(engine, "style_mix", latents=ends, layer=2), drawn(mixed))


def test_attributes_move_the_layers_that_they_are_for(engine: Engine) -> None:
    w = w_of(5).clone()
    w += 2 * 0.5 * torch.tensor([0.6, 0.8, 0.0])
    w[1:3] -= torch.tensor([0.0, 0.0, 1.0])
    what = {"seed": 5, "attributes": {"size": 2, "pca_1": -1}}
    assert np.array_equal(image(engine, "attribute", **what), drawn(w, draws(5)[1]))
    only = w_of(5).clone()
    only[0] += 3 * 0.5 * torch.tensor([0.6, 0.8, 0.0])
    found = image(engine, "attribute", seed=5, attributes={"size": 3}, layers=[0, 0])
    assert np.array_equal(found, drawn(only, draws(5)[1]))


def test_channels_add_to_single_styles_in_every_space(engine: Engine) -> None:
    delta = torch.zeros(1, sum(SYNTHESIS.style_channels))
    delta[0, 7] = 0.75
    expected = drawn(w_of(5), delta=delta)
    styles = STYLES(w_of(5)[None])[0]
    for latents in (w_of(5), styles):
        found = image(engine, "attribute", latents=wire(latents), channels={"7": 0.75})
        assert np.array_equal(found, expected)
    assert not np.array_equal(expected, drawn(w_of(5)))


def test_an_uploaded_image_is_edited_through_the_encoder(engine: Engine) -> None:
    (found,) = ask(engine, "encode", images=[IMAGE])
    what = {"attributes": {"size": -1.5}}
    by_image = image(engine, "attribute", images=[IMAGE], **what)
    by_latents = image(engine, "attribute", latents=[found.values["latents"]], **what)
    assert np.array_equal(by_image, by_latents)


def test_ways_end_where_their_seeds_are_in_z_and_in_w(engine: Engine) -> None:
    for space in ({}, {"latent_space": "z"}):
        frames = pixels_of(ask(engine, "interpolate", seeds=[1, 2], n=3, noise_strength=0, **space))
        assert np.array_equal(frames[0], drawn(w_of(1)))
        assert np.array_equal(frames[2], drawn(w_of(2)))
    middle = pixels_of(ask(engine, "interpolate", seeds=[1, 2], n=3, noise_strength=0))[1]
    assert np.array_equal(middle, drawn(0.5 * w_of(1) + 0.5 * w_of(2)))


def test_a_strip_goes_along_an_attribute_or_one_number_of_any_space(engine: Engine) -> None:
    strip = pixels_of(ask(engine, "traverse", seed=5, attribute="size", values=[0, 2]))
    assert np.array_equal(strip[0], image(engine, seed=5))
    moved = image(engine, "attribute", seed=5, attributes={"size": 2})
    assert np.array_equal(strip[1], moved)
    w = w_of(5).clone()
    w[:, 1] = 0.9
    what = {"seed": 5, "noise_strength": 0, "latent_index": 1, "values": [0.9]}
    assert np.array_equal(image(engine, "traverse", latent_space="w", **what), drawn(w))
    z = draws(5)[0]
    z[1] = 0.9
    in_z = image(engine, "traverse", **what)
    assert np.array_equal(in_z, image(engine, latents=wire(z), noise_strength=0))


def test_the_model_says_which_spaces_and_attributes_it_has(engine: Engine) -> None:
    info = engine.describe()
    limits = info.limits
    assert limits["latent_spaces"] == {
        "z": [Z],
        "w": [3],
        "w+": [LAYERS, 3],
        "s": [sum(SYNTHESIS.style_channels)],
    }
    assert limits["attributes"] == ["size", "pca_1"]
    assert limits["attribute_details"]["size"]["accuracy"] == 0.9
    schema = info.operations["attribute"]["properties"]
    assert schema["attributes"]["propertyNames"] == {"enum": ["size", "pca_1"]}
    assert "direction" not in str(info)


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("attribute", {"attributes": {"sizes": 1}}, "attributes", "did you mean size.*size, pca_1"),
    ("attribute", {}, "attributes", "nothing is to be changed.*size, pca_1"),
    ("attribute", {"channels": {"999": 1}}, "channels", "there is no style 999"),
    ("attribute", {"attributes": {"size": 1}, "layers": [0, 9]}, "layers.1", "less than"),
    ("traverse", {"attribute": "hue"}, "attribute", "'size' or 'pca_1'"),
    ("traverse", {"attribute": "size", "latent_index": 1}, None, "either an attribute or"),
    ("traverse", {"latent_index": 4}, "latent_index", "z of this model has 4 numbers"),
    ("traverse", {"latent_space": "s"}, "latent_space", "to z or w, not to s"),
    ("interpolate", {"latent_space": "w+"}, "latent_space", "to z or w"),
    ("style_mix", {"images": [IMAGE]}, "images", "takes two images"),
    ("style_mix", {"layer": 9}, "layer", "less than or equal"),
    ("generate", {"latent_space": "w"}, None, "there are none"),
    ("generate", {"latents": wire(torch.zeros(5))}, "latents", r"\[4\] for z.*for w\+"),
    ("generate", {"latents": wire(torch.zeros(4)), "latent_space": "w"}, "latents", r"takes \[3\]"),
    ("generate", {"latents": wire(torch.tensor([torch.nan] * 4))}, "latents", "finite"),
    ("generate", {"truncation": 1.1}, "truncation", "less than or equal to 1"),
    ("invert", {"images": [IMAGE], "steps": 10**6}, "steps", "less than or equal to 500"),
]


@pytest.mark.parametrize(("name", "what", "param", "said"), REFUSED)
def test_what_cannot_be_is_refused_with_what_would_be_right(
    engine: Engine, name: str, what: dict[str, Any], param: str | None, said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said) as caught:
        engine.jobs(call(name, **what))
    assert caught.value.param == param


def test_latents_behind_w_cannot_be_moved_within_it(engine: Engine) -> None:
    styles = wire(torch.zeros(sum(SYNTHESIS.style_channels)))
    mixes = [styles, wire(torch.zeros(Z))]
    for name, what in (
        ("generate", {"latents": styles, "truncation": 0.5}),
        ("attribute", {"latents": styles, "attributes": {"size": 1}}),
        ("traverse", {"latents": styles, "attribute": "size"}),
        ("style_mix", {"latents": mixes}),
        ("interpolate", {"latents": mixes}),
    ):
        with pytest.raises(InvalidParameter):
            engine.jobs(call(name, **what))


def test_values_that_no_image_can_have_are_an_error_of_their_own_row(engine: Engine) -> None:
    jobs = engine.jobs(call("generate", latents=wire(torch.full((3,), 3e38)), latent_space="w"))
    with pytest.raises(Exception, match="not finite"):
        engine.decode(engine.prepare(jobs))


def test_without_an_encoder_there_is_no_upload_but_there_are_edits() -> None:
    engine = ready(without(tiny_stylegan(), "encoder"))
    assert {"encode", "reconstruct"}.isdisjoint(engine.operations())
    assert engine.operations()["attribute"].images_needed == (0, 0)
    with pytest.raises(UnsupportedTask, match="without an encoder; invert finds"):
        engine.jobs(call("encode", images=[IMAGE]))
    assert ask(engine, "attribute", attributes={"size": 1})


def test_likelihood_is_refused_with_what_to_ask_instead(engine: Engine) -> None:
    with pytest.raises(UnsupportedTask, match="no likelihood; ask a flow"):
        engine.jobs(call("likelihood", images=[IMAGE]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attributes": [{"name": "a", "direction": [1.0], "source": "svm"}]}, "w has 3"),
        ({"layers": 2}, "for layers 1 to 2"),
        ({"w_mean": []}, "w_mean"),
        ({"bonus": 1}, "unknown field 'bonus'"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options: Any, said: str) -> None:
    model = tiny_stylegan()
    wrong = replace(model, options={**model.options, **options})
    with pytest.raises(InvalidManifest, match=said):
        ready(wrong)


def test_networks_of_other_sizes_than_the_options_are_refused() -> None:
    with pytest.raises(InvalidNetwork, match="ask for 'noise' of"):
        ready(tiny_stylegan(noise_size=5))
