"""Densities in closed form, checked against scipy and scikit-learn, which fitted them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from torch import nn

from model_store.architectures.densities import (
    BernoulliDensity,
    BernoulliSampler,
    GaussianDensity,
    MixtureDensity,
    MixtureSampler,
)
from model_store.export.package import CATALOG
from model_store.networks.opening import open_model
from model_store.recipes.digit_densities import gaussians, images_of, rows
from model_store.store import Store
from services.core.engine import Engine
from services.core.errors import InvalidManifest, InvalidNetwork, InvalidParameter, UnsupportedTask
from services.core.network import TensorSpec
from services.core.parameters import Latents
from services.core.pixels import from_bins
from services.runtime.cost import measure
from tests.engines import CPU, ask, call, pixels_of, ready, some_pixels
from tests.tiny_models import density_model, tiny_density

SIDE, DIMS = 3, 9
LABELS = ("zero", "one")


def images(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows).view(-1, 1, SIDE, SIDE)


def data(seed: int = 0, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of 3 x 3 images in [0, 1] whose pixels are correlated."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(DIMS, DIMS)) * 0.06
    target = rng.integers(0, 2, count)
    rows = 0.35 + 0.3 * target[:, None] + rng.normal(size=(count, DIMS)) @ mixing
    return rows.clip(0.01, 0.99), target


def built(means: np.ndarray, covariances: np.ndarray) -> tuple[nn.Module, nn.Module]:
    kind = "diagonal" if covariances.ndim == 2 else "full"
    count = len(means)
    shape: dict[str, Any] = {"side": SIDE, "covariance": kind}
    density = GaussianDensity(**shape) if count == 1 else MixtureDensity(components=count, **shape)
    sampler = MixtureSampler(components=count, **shape)
    whitening, factors = factored(covariances)
    with torch.no_grad():
        for module in (density, sampler):
            module.double()
            module.mean.copy_(torch.from_numpy(means))
        density.whitening.copy_(torch.from_numpy(whitening))
        sampler.factor.copy_(torch.from_numpy(factors))
    return density, sampler


def factored(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if covariances.ndim == 2:
        return 1 / np.sqrt(covariances), np.sqrt(covariances)
    factors = np.linalg.cholesky(covariances)
    return np.linalg.inv(factors), factors


@pytest.fixture(scope="module")
def gaussian() -> tuple[nn.Module, nn.Module, Any]:
    rows, _ = data()
    mean, covariance = rows.mean(0), np.cov(rows.T) + 1e-4 * np.eye(DIMS)
    density, sampler = built(mean[None], covariance[None])
    return density, sampler, stats.multivariate_normal(mean, covariance)


def test_a_gaussian_is_scipys(gaussian: tuple[nn.Module, nn.Module, Any]) -> None:
    density, _, expected = gaussian
    rows, _ = data(1, 20)
    found = density(images(rows))[0].detach().numpy()[:, 0]
    assert found == pytest.approx(expected.logpdf(rows), abs=1e-6)


def test_a_mixture_is_scikit_learns() -> None:
    rows, _ = data()
    mixture = GaussianMixture(3, random_state=0, reg_covar=1e-3).fit(rows)
    density, _ = built(mixture.means_, mixture.covariances_)
    held_out, _ = data(1, 20)
    joint = density(images(held_out)).detach() + torch.from_numpy(mixture.weights_).log()
    expected = mixture.score_samples(held_out)
    assert torch.logsumexp(joint, 1).numpy() == pytest.approx(expected, abs=1e-6)


def test_export_finds_the_factors_in_single_precision() -> None:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(2, 64, 64)) * 0.1
    covariances = root @ root.transpose(0, 2, 1) + 0.05 * np.eye(64)
    means = rng.random((2, 64))
    density, sampler = gaussians(means, covariances, "full")
    x = rng.random((5, 64))
    found = density(torch.from_numpy(x).view(-1, 1, 8, 8)).detach().numpy()
    expected = [stats.multivariate_normal(means[k], covariances[k]).logpdf(x) for k in range(2)]
    assert found == pytest.approx(np.stack(expected, axis=1), rel=1e-5)
    z = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    component = torch.tensor([0, 1, 1, 0])
    again = density.whitened(sampler(z, component))[torch.arange(4), component]
    torch.testing.assert_close(again, z.double(), atol=1e-4, rtol=0)


def model_of(density: nn.Module, sampler: nn.Module, **options: Any) -> Engine:
    return ready(density_model(density, sampler, SIDE, options))


def bayes() -> tuple[Engine, GaussianNB]:
    found = GaussianNB(var_smoothing=1e-3).fit(*data())
    density, sampler = built(found.theta_, found.var_)
    weights = list(found.class_prior_)
    return model_of(density, sampler, weights=weights, labels=list(LABELS)), found


def bernoulli() -> tuple[Engine, BernoulliNB]:
    found = BernoulliNB(alpha=1.0, binarize=0.5).fit(*data())
    density = BernoulliDensity(components=2, side=SIDE).double()
    sampler = BernoulliSampler(components=2, side=SIDE).double()
    share = torch.from_numpy(found.feature_log_prob_).exp()
    with torch.no_grad():
        density.logits.copy_(torch.logit(share))
        sampler.logits.copy_(torch.logit(share))
    weights = list(np.exp(found.class_log_prior_))
    return model_of(density, sampler, weights=weights, labels=list(LABELS), binary=True), found


def centers(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float64) + 0.5) / 256).reshape(1, -1)


def test_naive_bayes_is_scikit_learns_and_counts_the_bins() -> None:
    engine, expected = bayes()
    for seed in range(4):
        pixels = some_pixels(1, SIDE, SIDE, seed=seed)
        values = ask(engine, "likelihood", images=[pixels])[0].values
        joint = expected.predict_joint_log_proba(centers(pixels))
        nats = float(np.logaddexp.reduce(joint, axis=1)[0])
        width = -DIMS * math.log(256)
        assert values["log_likelihood"] == pytest.approx(nats + width, rel=1e-6)
        assert values["bits_per_dim"] == pytest.approx(-(nats + width) / math.log(2) / DIMS)
        assert values["terms"]["log_density"] == pytest.approx(nats, rel=1e-6)
        assert values["terms"]["log_bin"] == pytest.approx(width)
        assert (values["kind"], values["std_error"]) == ("exact", 0.0)
        posterior = expected.predict_proba(centers(pixels))[0]
        assert list(values["posterior"]) == list(LABELS)
        assert list(values["posterior"].values()) == pytest.approx(list(posterior), abs=1e-6)


def test_a_likelihood_under_one_class_is_that_classes_density_and_has_no_percentile() -> None:
    found = GaussianNB(var_smoothing=1e-3).fit(*data())
    density, sampler = built(found.theta_, found.var_)
    reference = list(np.linspace(-100, 0, 11))
    weights = list(found.class_prior_)
    engine = model_of(
        density, sampler, weights=weights, labels=LABELS, reference_log_likelihoods=reference
    )
    pixels = some_pixels(1, SIDE, SIDE, seed=4)
    of_all = ask(engine, "likelihood", images=[pixels])[0].values
    of_one = ask(engine, "likelihood", images=[pixels], label="one")[0].values
    deviation = np.sqrt(found.var_[1])
    expected = float(stats.norm(found.theta_[1], deviation).logpdf(centers(pixels)).sum())
    assert of_one["terms"]["log_density"] == pytest.approx(expected, rel=1e-6)
    assert of_one["percentile"] is None
    assert of_all["percentile"] is not None
    assert of_one["posterior"] == of_all["posterior"]
    described = engine.describe()
    assert described.reference is not None
    assert described.reference.settings == {"label": None}


def test_bernoulli_is_scikit_learns_and_its_masses_add_up_to_one() -> None:
    engine, expected = bernoulli()
    rng = np.random.default_rng(5)
    for _ in range(4):
        pixels = rng.integers(0, 2, (1, SIDE, SIDE)).astype(np.uint8) * 200
        values = ask(engine, "likelihood", images=[pixels])[0].values
        joint = expected.predict_joint_log_proba(centers(pixels))
        nats = float(np.logaddexp.reduce(joint, axis=1)[0])
        assert values["log_likelihood"] == pytest.approx(nats, rel=1e-6)
        assert values["terms"] == {"log_mass_of_binary_pixels": values["log_likelihood"]}
        posterior = list(expected.predict_proba(centers(pixels))[0])
        assert list(values["posterior"].values()) == pytest.approx(posterior, abs=1e-6)
    grid = torch.cartesian_prod(*[torch.tensor([0.1, 0.9])] * DIMS)
    log_mass = engine.model.networks["density"](x=grid.view(-1, 1, SIDE, SIDE))["log_density"]
    assert torch.exp(log_mass.double()).sum(0).tolist() == pytest.approx([1, 1], rel=1e-5)


def test_light_and_dark_part_at_the_8_bit_value_128() -> None:
    engine, _ = bernoulli()
    dark, light, white = (np.full((1, SIDE, SIDE), v, np.uint8) for v in (127, 128, 255))
    of = [ask(engine, "likelihood", images=[one])[0].values for one in (dark, light, white)]
    assert of[1]["log_likelihood"] == of[2]["log_likelihood"] != of[0]["log_likelihood"]


def test_a_density_in_the_plane_integrates_to_one() -> None:
    """The engine's own network at the centres of 256 x 256 bins."""
    density = MixtureDensity(components=2, side=1, channels=2, covariance="full")
    with torch.no_grad():
        density.mean.copy_(torch.tensor([[0.4, 0.5], [0.6, 0.45]]))
        density.whitening.copy_(torch.tensor([[[9.0, 0], [4, 12]], [[15, 0], [-6, 10]]]))
    levels = torch.arange(256)
    x = (torch.cartesian_prod(levels, levels) + 0.5).view(-1, 2, 1, 1) / 256
    shares = torch.tensor([0.3, 0.7]).double()
    found = (density(x).detach().exp() * shares).sum() / 256**2
    assert float(found) == pytest.approx(1, abs=1e-3)


def test_more_samples_estimate_the_mass_of_the_bins() -> None:
    mean, deviation = np.full(DIMS, 0.5), np.full(DIMS, 0.01)
    engine = model_of(*built(mean[None], deviation[None] ** 2))
    pixels = np.full((1, SIDE, SIDE), 131, np.uint8)
    edges = np.array([131 / 256, 132 / 256])
    exact = DIMS * math.log(np.diff(stats.norm(0.5, 0.01).cdf(edges))[0])
    found = [
        ask(engine, "likelihood", images=[pixels], samples=64, seed=s)[0].values for s in range(30)
    ]
    assert found[0]["kind"] == "estimate"
    nats = [values["log_likelihood"] for values in found]
    assert np.mean(nats) == pytest.approx(exact, abs=4 * np.std(nats) / math.sqrt(30) + 0.02)


def test_samples_have_the_mean_and_covariance(
    gaussian: tuple[nn.Module, nn.Module, Any],
) -> None:
    _, sampler, expected = gaussian
    z = torch.randn(40_000, DIMS, generator=torch.Generator().manual_seed(0))
    rows = sampler(z, torch.zeros(40_000, dtype=torch.int64)).detach().flatten(1).numpy()
    assert rows.mean(0) == pytest.approx(expected.mean, abs=5e-3)
    assert np.cov(rows.T) == pytest.approx(expected.cov_object.covariance, abs=2e-3)


def test_classes_are_drawn_by_their_priors_and_binary_pixels_by_their_shares() -> None:
    engine, expected = bernoulli()
    found = [r for seed in range(8) for r in ask(engine, "generate", n=64, seed=1000 * seed)]
    ones = [r.values["label"] == "one" for r in found]
    prior = math.exp(expected.class_log_prior_[1])
    assert np.mean(ones) == pytest.approx(prior, abs=4 * math.sqrt(0.25 / 512))
    of_one = np.stack([p for p, one in zip(pixels_of(found), ones, strict=True) if one])
    assert set(np.unique(of_one)) == {0, 255}
    share = np.exp(expected.feature_log_prob_[1])
    assert (of_one / 255).mean(0).flatten() == pytest.approx(share, abs=0.15)


def test_a_label_is_what_is_generated() -> None:
    engine, expected = bayes()
    for label in (0, 1, "zero", "One"):
        (result,) = ask(engine, "generate", label=label, temperature=0.01)
        index = label if isinstance(label, int) else LABELS.index(label.lower())
        assert result.values["label"] == LABELS[index]
        (pixels,) = pixels_of([result])
        wanted = expected.theta_[index].reshape(1, SIDE, SIDE) * 256
        assert pixels == pytest.approx(wanted, abs=2)
    with pytest.raises(InvalidParameter, match="unknown label 'two'") as caught:
        engine.jobs(call("generate", label="two"))
    assert caught.value.param == "label"
    with pytest.raises(InvalidParameter, match="there are 2"):
        engine.jobs(call("likelihood", images=[some_pixels(1, SIDE, SIDE)], label=2))


def test_one_gaussian_encodes_walks_and_comes_back(
    gaussian: tuple[nn.Module, nn.Module, Any],
) -> None:
    density, sampler, _ = gaussian
    engine = model_of(density, sampler)
    first, second = (some_pixels(1, SIDE, SIDE, seed=s) for s in (1, 2))
    (encoded,) = ask(engine, "encode", images=[first])
    latents = encoded.values["latents"]
    z = Latents(**latents).array()
    expected = density(images(centers(first)))[1].detach().numpy()
    assert z[None] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    (again,) = pixels_of(ask(engine, "generate", latents=latents))
    assert np.array_equal(again, first)
    frames = pixels_of(ask(engine, "interpolate", images=[first, second], n=3))
    assert np.array_equal(frames[0], first)
    assert np.array_equal(frames[2], second)


REFUSED = [
    (lambda: bayes()[0], "mixture of 2 components"),
    (lambda: bernoulli()[0], "light or dark"),
]


@pytest.mark.parametrize(("build", "reason"), REFUSED)
@pytest.mark.parametrize("name", ["encode", "interpolate", "reconstruct"])
def test_what_has_no_single_latent_says_so(build: Any, reason: str, name: str) -> None:
    with pytest.raises(UnsupportedTask, match=reason):
        build().jobs(call(name, images=[some_pixels(1, SIDE, SIDE)]))


def test_a_mixture_takes_no_latents() -> None:
    given = Latents.from_array(np.zeros(DIMS, np.float32)).model_dump()
    with pytest.raises(InvalidParameter) as caught:
        bayes()[0].jobs(call("generate", latents=given))
    assert caught.value.param == "latents"


WRONG: list[tuple[Mapping[str, Any], str]] = [
    ({"weights": [0.5, 0.3, 0.1]}, "sum to 1"),
    ({"weights": [1.5, -0.25, -0.25]}, "weights"),
    ({"weights": [0.5, 0.3, 0.2], "labels": ["a"]}, "1 labels for 3 weights"),
    ({"weights": [1.0], "threshold": 0.5}, "threshold"),
]


@pytest.mark.parametrize(("options", "reason"), WRONG)
def test_options_that_disagree_are_refused(options: Mapping[str, Any], reason: str) -> None:
    modules = MixtureDensity(3, side=SIDE), MixtureSampler(3, side=SIDE)
    with pytest.raises(InvalidManifest, match=reason):
        model_of(*modules, **options)


def test_a_network_of_other_components_than_the_options_is_refused() -> None:
    model = tiny_density()
    network = model.networks["density"]
    network.outputs["log_density"] = TensorSpec((4,), torch.float32)  # type: ignore[index]
    with pytest.raises(InvalidNetwork, match=r"gives \[4\] numbers.*3 weights"):
        ready(model)


@pytest.mark.parametrize("build", [lambda: bayes()[0], lambda: bernoulli()[0]])
def test_costs_can_be_measured_by_the_rehearsal(build: Any) -> None:
    engine = build()
    costs = measure(engine, engine.rehearsal(), Lock())
    job = engine.jobs(call("likelihood", images=[some_pixels(1, SIDE, SIDE)]))[0]
    assert costs is not None
    assert engine.workload(job).evaluations == 1


CATALOGED = ["digits-bernoulli-nb", "digits-gaussian", "digits-gmm", "digits-naive-bayes"]


@pytest.mark.parametrize("name", CATALOGED)
def test_the_catalogs_densities_open_and_know_digits_from_noise(name: str, tmp_path: Path) -> None:
    model = open_model(Store(tmp_path, catalogs=(CATALOG,)), name, CPU, threads=1)
    engine = ready(model)
    digits = from_bins(images_of(rows("test")[0][:3]), (0.0, 1.0))
    found = [r.values for r in ask(engine, "likelihood", images=[*digits, some_pixels(1, 8, 8)])]
    assert [values["anomalous"] for values in found] == [False, False, False, True]
    assert len(pixels_of(ask(engine, "generate", n=2))) == 2
