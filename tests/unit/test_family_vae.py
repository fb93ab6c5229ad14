"""The VAE engine on a linear-Gaussian model, whose likelihood can be integrated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import EngineFailure, InvalidManifest, InvalidNetwork, UnsupportedTask
from services.core.images import Pixels
from services.core.network import OpenedModel
from services.core.parameters import Latents
from services.core.trajectory import Result
from tests.engines import RowByRow, ask, call, carry, floats, opened, pixels_of, ready, some_pixels
from tests.tiny_models import tiny_vae

WEIGHTS = np.array([30.0, -20.0, 12.0, 25.0])
SHIFT = np.array([120.0, 130.0, 100.0, 140.0])
SCALE = 9.0
IMAGE = np.array([[[141, 118], [96, 170]]], np.uint8)


def linear(offset: float = 0.3, spread: float = 1.5) -> OpenedModel:
    """One latent, four pixels: ``x ~ Logistic(w z + b)``, and a posterior that is somewhat off.

    The logistic's variance is ``(pi scale)^2 / 3``; with a normal of that variance in its place the
    posterior is normal, and here it is moved by ``offset`` and widened by ``spread``.
    """
    weights, shift = torch.from_numpy(WEIGHTS).float(), torch.from_numpy(SHIFT).float()
    noise = (math.pi * SCALE) ** 2 / 3
    precision = 1 + float(weights.square().sum()) / noise

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        mean = ((image.flatten(1) - shift) @ weights)[:, None] / noise / precision
        variance = torch.full_like(mean, spread / precision)
        return {"mean": mean + offset * variance.sqrt(), "log_variance": variance.log()}

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": (z * weights + shift).view(-1, 1, 2, 2)}

    return opened(
        "vae",
        {
            "encoder": RowByRow(encode, {"image": floats(1, 2, 2)}, ["mean", "log_variance"]),
            "decoder": RowByRow(decode, {"z": floats(1)}, ["image"]),
        },
        resolution=(2, 2),
        pixel_range=(0.0, 255.0),
        options={"observation": {"scale": SCALE}},
    )


def exact(image: Pixels) -> float:
    """``log p(x)`` by integrating over the latent; the masses of bins come from scipy."""
    x = image.flatten().astype(float)

    def joint(z: float) -> float:
        pixel = stats.logistic(WEIGHTS * z + SHIFT, SCALE)
        return float(stats.norm.pdf(z) * np.prod(pixel.cdf(x + 0.5) - pixel.cdf(x - 0.5)))

    mass, _ = integrate.quad(joint, -8, 8, points=[0.7], epsabs=0, epsrel=1e-9)
    return math.log(mass)


@pytest.fixture
def engine() -> Engine:
    return ready(linear())


def bounds(engine: Engine, samples: int, seeds: int) -> list[Result]:
    jobs = [
        job
        for seed in range(seeds)
        for job in engine.jobs(call("likelihood", images=[IMAGE], samples=samples, seed=seed))
    ]
    return carry(engine, jobs)


def test_more_samples_tighten_the_bound_from_below_the_exact_likelihood(engine: Engine) -> None:
    means, errors = [], []
    for samples, seeds in ((1, 600), (4, 300), (64, 60)):
        found = [r.values["log_likelihood"] for r in bounds(engine, samples, seeds)]
        means.append(float(np.mean(found)))
        errors.append(float(np.std(found)) / math.sqrt(seeds))
    limit = exact(IMAGE)
    assert means[0] + 3 * errors[0] < means[1] - 3 * errors[1]
    assert means[1] < means[2] + 3 * errors[2]
    assert means[2] < limit + 3 * errors[2]
    assert means[2] == pytest.approx(limit, abs=0.02)


def test_the_terms_are_those_of_the_bound(engine: Engine) -> None:
    values = ask(engine, "likelihood", images=[IMAGE], samples=200)[0].values
    posterior = ask(engine, "encode", images=[IMAGE])[0].values
    mean = float(Latents(**posterior["latents"]).array().item())
    variance = math.exp(float(Latents(**posterior["log_variance"]).array().item()))
    terms = values["terms"]
    divergence = 0.5 * (mean**2 + variance - 1 - math.log(variance))
    assert terms["kl"] == pytest.approx(divergence, rel=1e-5)
    assert terms["elbo"] == pytest.approx(terms["reconstruction"] - terms["kl"])
    assert terms["iwae"] == values["log_likelihood"]
    assert terms["elbo"] < terms["iwae"] < exact(IMAGE) + 4 * values["std_error"]
    assert values["kind"] == "lower_bound"
    assert values["samples"] == 200
    assert values["bits_per_dim"] == pytest.approx(-values["log_likelihood"] / math.log(2) / 4)


def test_the_single_sample_bound_is_the_elbo_on_average(engine: Engine) -> None:
    found = bounds(engine, 1, 500)
    values = [r.values["log_likelihood"] for r in found]
    elbo = float(np.mean([r.values["terms"]["elbo"] for r in bounds(engine, 32, 40)]))
    assert np.mean(values) == pytest.approx(elbo, abs=5 * float(np.std(values)) / math.sqrt(500))
    assert found[0].values["std_error"] is None


def test_the_standard_error_is_the_spread_over_seeds(engine: Engine) -> None:
    found = bounds(engine, 32, 100)
    spread = float(np.std([r.values["log_likelihood"] for r in found]))
    told = float(np.median([r.values["std_error"] for r in found]))
    assert told == pytest.approx(spread, rel=0.3)


def test_a_posterior_that_is_nearly_right_gives_nearly_the_likelihood() -> None:
    engine = ready(linear(offset=0.0, spread=1.0))
    values = ask(engine, "likelihood", images=[IMAGE], samples=100)[0].values
    assert values["terms"]["elbo"] == pytest.approx(exact(IMAGE), abs=0.05)


def test_same_seed_same_number_in_any_batch() -> None:
    engine = ready(tiny_vae())
    images = [some_pixels(1, 4, 4, seed=i) for i in range(5)]
    together = ask(engine, "likelihood", images=images, samples=7, seed=3)
    for image, result in zip(images, together, strict=True):
        assert ask(engine, "likelihood", images=[image], samples=7, seed=3) == [result]
    other = ask(engine, "likelihood", images=images, samples=7, seed=4)
    assert other[0].values["log_likelihood"] != together[0].values["log_likelihood"]


def test_reconstruction_is_the_decoded_mean_and_a_draw_is_near_it(engine: Engine) -> None:
    posterior = ask(engine, "encode", images=[IMAGE])[0].values
    mean = float(Latents(**posterior["latents"]).array().item())
    expected = np.rint(WEIGHTS * mean + SHIFT).reshape(1, 2, 2)
    found = pixels_of(ask(engine, "reconstruct", images=[IMAGE]))[0]
    assert np.abs(found - expected).max() <= 1
    draws = [
        pixels_of(ask(engine, "reconstruct", images=[IMAGE], sample=True, seed=seed))[0]
        for seed in range(200)
    ]
    std = math.exp(0.5 * float(Latents(**posterior["log_variance"]).array().item()))
    first = np.array([draw[0, 0, 0] for draw in draws], float)
    assert first.mean() == pytest.approx(expected[0, 0, 0], abs=5 * std * 30 / math.sqrt(200))
    assert first.std() == pytest.approx(30 * std, rel=0.2)


def test_an_encoding_generates_the_reconstruction(engine: Engine) -> None:
    encoded = ask(engine, "encode", images=[IMAGE])[0].values
    assert encoded["kind"] == "posterior_mean"
    again = pixels_of(ask(engine, "generate", latents=encoded["latents"]))
    assert np.array_equal(again, pixels_of(ask(engine, "reconstruct", images=[IMAGE])))


def test_samples_follow_the_prior(engine: Engine) -> None:
    for temperature in (1.0, 0.25):
        images = pixels_of(ask(engine, "generate", n=64, seed=5, temperature=temperature))
        first = np.array([image[0, 0, 0] for image in images], float)
        error = 30 * temperature / math.sqrt(64)
        assert first.mean() == pytest.approx(120, abs=4 * error + 0.5)
        assert first.std() == pytest.approx(30 * temperature, rel=0.35)


def test_a_path_between_images_begins_and_ends_with_their_reconstructions() -> None:
    engine = ready(tiny_vae())
    images = [some_pixels(1, 4, 4, seed=i) for i in (1, 2)]
    path = pixels_of(ask(engine, "interpolate", images=images, n=6, spherical=False))
    ends = pixels_of(ask(engine, "reconstruct", images=images))
    assert np.array_equal([path[0], path[-1]], ends)
    seeds = pixels_of(ask(engine, "interpolate", seeds=[4, 7], n=3))
    drawn = [pixels_of(ask(engine, "generate", seed=seed))[0] for seed in (4, 7)]
    assert np.array_equal([seeds[0], seeds[-1]], drawn)


def test_all_images_of_a_request_are_encoded_in_one_evaluation_and_each_once() -> None:
    engine = ready(tiny_vae())
    images = [some_pixels(1, 4, 4, seed=i) for i in (1, 2)]
    ask(engine, "interpolate", images=images, n=16)
    ask(engine, "reconstruct", images=images)
    network = engine.model.networks["encoder"]
    assert isinstance(network, RowByRow)
    assert network.batches == [2, 2]


def decoder_alone() -> OpenedModel:
    model = tiny_vae()
    return replace(model, networks={"decoder": model.networks["decoder"]}, options={})


def test_a_decoder_alone_generates_and_says_what_it_lacks() -> None:
    engine = ready(decoder_alone())
    assert len(pixels_of(ask(engine, "generate", n=3))) == 3
    assert len(pixels_of(ask(engine, "interpolate", n=3))) == 3
    for name in ("likelihood", "encode", "reconstruct"):
        with pytest.raises(UnsupportedTask, match="a decoder without its encoder"):
            engine.jobs(call(name, images=[some_pixels(1, 4, 4)]))
    assert engine.describe().likelihood == "none"


def test_a_model_that_does_not_say_how_pixels_scatter_bounds_no_likelihood() -> None:
    engine = ready(replace(tiny_vae(), options={}))
    with pytest.raises(UnsupportedTask, match="options: observation"):
        engine.jobs(call("likelihood", images=[some_pixels(1, 4, 4)]))
    assert engine.describe().likelihood == "none"
    assert ready(tiny_vae()).describe().likelihood == "lower_bound"


def test_manifests_and_networks_that_do_not_fit_are_told_why() -> None:
    with pytest.raises(InvalidManifest, match=r"observation\.scale"):
        ready(replace(tiny_vae(), options={"observation": {"scale": 0}}))
    with pytest.raises(InvalidNetwork, match="needs a network 'decoder'"):
        ready(replace(tiny_vae(), networks={}))


def test_values_that_are_not_finite_are_never_answered() -> None:
    def encode(image: Tensor) -> Mapping[str, Tensor]:
        return {"mean": torch.full((len(image), 3), torch.nan), "log_variance": torch.zeros(1, 3)}

    broken = RowByRow(encode, {"image": floats(1, 4, 4)}, ["mean", "log_variance"])
    model = tiny_vae()
    engine = ready(replace(model, networks={**model.networks, "encoder": broken}))
    for name in ("encode", "reconstruct", "likelihood"):
        with pytest.raises(EngineFailure, match="not finite"):
            ask(engine, name, images=[some_pixels(1, 4, 4)])
