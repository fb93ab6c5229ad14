"""A hierarchical VAE on a linear-Gaussian ladder, whose marginal is a closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidNetwork, InvalidParameter
from services.core.network import OpenedModel
from services.core.parameters import Latents
from services.core.trajectory import Result
from tests.engines import RowByRow, ask, call, carry, floats, opened, pixels_of, ready, some_pixels

TOP, LOW = 0.8, 0.6
"""The lower level is N(TOP z_1, LOW^2) given the top one, so N(0, TOP^2 + LOW^2) by itself."""
WEIGHTS = np.array([30.0, -20.0, 12.0, 25.0])
SHIFT = np.array([120.0, 130.0, 100.0, 140.0])
SCALE = 9.0
SCALES = [9.0, 12.0, 7.0, 10.0]
IMAGE = np.array([[[141, 118], [96, 170]]], np.uint8)
OFFSET, SPREAD = 0.5, 1.7
"""By how much the posterior is off."""


class Posterior:
    """Of both levels in units of the prior, were the logistic a normal of its variance.

    The precision of ``(z_1, e_2)`` is ``I + c c^T |w|^2 / v`` with ``c = (TOP, LOW)``.
    """

    def __init__(self, x: Tensor) -> None:
        noise = (math.pi * SCALE) ** 2 / 3
        path = torch.tensor([TOP, LOW])
        weights, shift = torch.from_numpy(WEIGHTS).float(), torch.from_numpy(SHIFT).float()
        precision = torch.eye(2) + torch.outer(path, path) * float(weights.square().sum()) / noise
        covariance = torch.linalg.inv(precision)
        center = ((x.flatten(1) - shift) @ weights / noise)[:, None] * (covariance @ path)
        self.top_variance = SPREAD * float(covariance[0, 0])
        self.top_mean = center[:, :1] + OFFSET * math.sqrt(self.top_variance)
        self.low_variance = SPREAD / float(precision[1, 1])
        self.slope = -float(precision[1, 0] / precision[1, 1])
        self.low_center, self.top_center = center[:, 1:], center[:, :1]

    def low_mean(self, z: Tensor) -> Tensor:
        mean: Tensor = self.low_center + self.slope * (z - self.top_center)
        return mean


class Whole(RowByRow):
    """All rows at once: faster, where no test asks for equal bits in any company."""

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        return dict(self._function(**inputs))


def ladder(scale: float | list[float] = SCALE, network: type[RowByRow] = RowByRow) -> OpenedModel:
    """Two levels of one number, four pixels."""
    weights, shift = torch.from_numpy(WEIGHTS).float(), torch.from_numpy(SHIFT).float()

    def encode(image: Tensor, noise: Tensor) -> Mapping[str, Tensor]:
        posterior = Posterior(image)
        top = posterior.top_mean + math.sqrt(posterior.top_variance) * noise[:, :1]
        low_mean = posterior.low_mean(top)
        low = low_mean + math.sqrt(posterior.low_variance) * noise[:, 1:]
        variances = torch.tensor([[posterior.top_variance, posterior.low_variance]])
        return {
            "z": torch.cat([top, low], 1),
            "mean": torch.cat([posterior.top_mean, low_mean], 1),
            "log_variance": variances.log().expand(len(image), -1),
        }

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        below = TOP * z[:, :1] + LOW * z[:, 1:]
        return {"image": (below * weights + shift).view(-1, 1, 2, 2)}

    inputs = {"image": floats(1, 2, 2), "noise": floats(2)}
    return opened(
        "vae",
        {
            "hierarchical_encoder": network(encode, inputs, ["z", "mean", "log_variance"]),
            "decoder": network(decode, {"z": floats(2)}, ["image"]),
        },
        resolution=(2, 2),
        pixel_range=(0.0, 255.0),
        options={"observation": {"scale": scale}, "levels": [1, 1]},
    )


def exact(scale: float | list[float] = SCALE) -> float:
    """``log p(x)`` with the top level integrated out by hand, the lower one by quadrature."""
    x, std = IMAGE.flatten().astype(float), math.hypot(TOP, LOW)

    def joint(z: float) -> float:
        pixel = stats.logistic(WEIGHTS * z + SHIFT, np.asarray(scale))
        return float(stats.norm(0, std).pdf(z) * np.prod(pixel.cdf(x + 0.5) - pixel.cdf(x - 0.5)))

    mass, _ = integrate.quad(joint, -8, 8, points=[0.7], epsabs=0, epsrel=1e-9)
    return math.log(mass)


@pytest.fixture
def engine() -> Engine:
    return ready(ladder())


def bounds(engine: Engine, samples: int, seeds: int) -> list[float]:
    jobs = [
        job
        for seed in range(seeds)
        for job in engine.jobs(call("likelihood", images=[IMAGE], samples=samples, seed=seed))
    ]
    return [result.values["log_likelihood"] for result in carry(engine, jobs)]


def test_more_samples_tighten_the_bound_to_the_exact_marginal() -> None:
    engine = ready(ladder(network=Whole))
    means, errors = [], []
    for samples, seeds in ((1, 500), (4, 250), (64, 40)):
        found = bounds(engine, samples, seeds)
        means.append(float(np.mean(found)))
        errors.append(float(np.std(found)) / math.sqrt(seeds))
    limit = exact()
    assert means[0] + 3 * errors[0] < means[1] - 3 * errors[1]
    assert means[1] < means[2] + 3 * errors[2]
    assert means[2] < limit + 3 * errors[2]
    assert means[2] == pytest.approx(limit, abs=0.05)


def test_a_scale_for_each_pixel_is_the_one_of_that_pixel() -> None:
    values = ask(ready(ladder(SCALES, Whole)), "likelihood", images=[IMAGE], samples=200)[0].values
    tolerance = 4 * values["std_error"] + 0.02
    assert values["log_likelihood"] == pytest.approx(exact(SCALES), abs=tolerance)
    assert abs(exact(SCALES) - exact(SCALES[::-1])) > tolerance
    with pytest.raises(InvalidManifest, match="3 numbers; one is enough, or 4"):
        ready(ladder([1.0, 2.0, 3.0]))


def test_the_terms_are_each_levels_divergence_in_closed_form() -> None:
    engine = ready(ladder(network=Whole))
    terms = ask(engine, "likelihood", images=[IMAGE], samples=400)[0].values["terms"]
    found = Posterior(torch.from_numpy(IMAGE[None].astype(np.float32)))
    mean, variance = float(found.top_mean), found.top_variance
    top = 0.5 * (mean**2 + variance - 1 - math.log(variance))
    square = float(found.low_mean(found.top_mean)) ** 2 + found.slope**2 * variance
    low = 0.5 * (square + found.low_variance - 1 - math.log(found.low_variance))
    assert terms["kl_level_1"] == pytest.approx(top, rel=1e-5)
    assert terms["kl_level_2"] == pytest.approx(low, abs=0.08)
    assert terms["kl"] == pytest.approx(terms["kl_level_1"] + terms["kl_level_2"])
    assert terms["elbo"] == pytest.approx(terms["reconstruction"] - terms["kl"])
    assert terms["elbo"] < terms["iwae"]


def first_pixels(results: list[Result]) -> np.ndarray:
    return np.array([image[0, 0, 0] for image in pixels_of(results)], float)


@pytest.mark.parametrize(("temperatures", "spread"), [([1.0, 0.01], TOP), ([0.01, 1.0], LOW)])
def test_each_level_has_its_own_temperature(
    engine: Engine, temperatures: list[float], spread: float
) -> None:
    found = first_pixels(ask(engine, "generate", n=64, seed=3, temperatures=temperatures))
    assert found.std() == pytest.approx(WEIGHTS[0] * spread, rel=0.3)
    same = ask(engine, "generate", n=4, seed=3, temperatures=[0.5, 0.5])
    assert np.array_equal(
        pixels_of(same), pixels_of(ask(engine, "generate", n=4, seed=3, temperature=0.5))
    )


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"temperatures": [1.0, 1.0, 1.0]}, "temperatures", "3 numbers; .* has 2 levels"),
        ({"temperatures": [1.0, 0.0]}, "temperatures", "greater than 0"),
        ({"temperatures": [1.0, 1.0], "temperature": 0.5}, None, "either temperature or"),
        (
            {"temperatures": [1.0, 1.0], "latents": {"data": "AAAAAAAAAAA=", "shape": [2]}},
            None,
            "decoded as they are",
        ),
    ],
)
def test_temperatures_that_do_not_fit_are_refused(
    engine: Engine, fields: Mapping[str, Any], param: str | None, said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said) as caught:
        engine.jobs(call("generate", **fields))
    if param is not None:
        assert param in (caught.value.param or "")


def test_a_reconstruction_from_the_top_leaves_the_rest_to_the_prior(engine: Engine) -> None:
    posterior = Posterior(torch.from_numpy(IMAGE[None].astype(np.float32)))
    top = float(posterior.top_mean)
    found = first_pixels(ask(engine, "reconstruct", images=[IMAGE], levels=1))
    assert found[0] == pytest.approx(WEIGHTS[0] * TOP * top + SHIFT[0], abs=1)
    low = float(posterior.low_mean(posterior.top_mean))
    whole = first_pixels(ask(engine, "reconstruct", images=[IMAGE], levels=2))
    assert whole[0] == pytest.approx(WEIGHTS[0] * (TOP * top + LOW * low) + SHIFT[0], abs=1)
    assert np.array_equal(whole, first_pixels(ask(engine, "reconstruct", images=[IMAGE])))
    drawn = np.concatenate(
        [
            first_pixels(ask(engine, "reconstruct", images=[IMAGE], levels=1, sample=True, seed=s))
            for s in range(100)
        ]
    )
    spread = math.hypot(TOP * math.sqrt(posterior.top_variance), LOW)
    assert drawn.std() == pytest.approx(WEIGHTS[0] * spread, rel=0.25)
    with pytest.raises(InvalidParameter, match=r"levels is 3; .* has 2"):
        engine.jobs(call("reconstruct", images=[IMAGE], levels=3))


def test_an_encoding_generates_the_reconstruction_and_ends_a_path(engine: Engine) -> None:
    encoded = ask(engine, "encode", images=[IMAGE])[0].values
    assert encoded["kind"] == "posterior_mean"
    assert Latents(**encoded["log_variance"]).array().shape == (2,)
    again = pixels_of(ask(engine, "reconstruct", images=[IMAGE]))
    assert np.array_equal(pixels_of(ask(engine, "generate", latents=encoded["latents"])), again)
    other = some_pixels(1, 2, 2, seed=4)
    path = pixels_of(ask(engine, "interpolate", images=[IMAGE, other], n=3))
    assert np.array_equal(path[0], again[0])


def test_all_kinds_of_rows_answer_alone_what_they_answer_together(engine: Engine) -> None:
    images = [some_pixels(1, 2, 2, seed=i) for i in range(3)]
    calls = [
        call("likelihood", images=images, samples=2, seed=5),
        call("reconstruct", images=images, sample=True, seed=6),
        call("reconstruct", images=images, sample=True, levels=1, seed=7),
        call("traverse", images=images[:1], latent_index=1, n=2),
        call("generate", temperatures=[0.7, 1.2], n=2),
    ]
    jobs = [job for one in calls for job in engine.jobs(one)]
    for job, together in zip(jobs, carry(engine, jobs), strict=True):
        (alone,) = carry(engine, [job])
        assert dict(alone.values) == dict(together.values)
        assert (alone.pixels is None) == (together.pixels is None)
        if alone.pixels is not None and together.pixels is not None:
            assert np.array_equal(alone.pixels, together.pixels)


def test_the_model_says_its_levels(engine: Engine) -> None:
    info = engine.describe()
    assert info.limits["latent_levels"] == [1, 1]
    assert info.likelihood == "lower_bound"
    assert "temperatures" in info.operations["generate"]["properties"]


def test_levels_and_networks_that_do_not_fit_are_told_why() -> None:
    model = ladder()
    with pytest.raises(InvalidNetwork, match="3 in all"):
        ready(replace(model, options={"levels": [1, 2]}))
    with pytest.raises(InvalidManifest, match="`levels` belong with"):
        ready(replace(model, options={}))
    both = {**model.networks, "encoder": model.networks["decoder"]}
    with pytest.raises(InvalidManifest, match="names 2 encoders"):
        ready(replace(model, networks=both))
