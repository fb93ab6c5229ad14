"""The flow engine: an exact density, checked against autograd, zuko and integration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import zuko
from scipy import stats
from torch import Tensor, nn

from services.core.engine import Engine
from services.core.errors import EngineFailure, InvalidParameter, UnsupportedTask
from services.core.network import OpenedModel
from services.core.parameters import Latents
from tests.engines import ask, call, pixels_of, ready, some_pixels
from tests.tiny_models import CouplingFlow, flow_model, seeded, tiny_flow

SHAPE = (1, 4, 4)


class Zuko(nn.Module):
    """An independent flow: zuko's autoregressive splines, in our two directions."""

    def __init__(self, dims: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.flow = shape, zuko.flows.NSF(dims, transforms=2, hidden_features=(16,))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        transform = self.flow().transform
        z, log_det = transform.call_and_ladj(x.flatten(1))
        return z.view(-1, *self.shape), log_det

    def inverse(self, z: Tensor) -> Tensor:
        x: Tensor = self.flow().transform.inv(z.flatten(1))
        return x.view(-1, *self.shape)


class Scaling(nn.Module):
    """``z = (x - shift) / scale``: a density with a closed form."""

    shift, scale = 0.4, 0.25

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.full((len(x),), -math.log(self.scale) * x[0].numel())
        return (x - self.shift) / self.scale, log_det

    def inverse(self, z: Tensor) -> Tensor:
        return z * self.scale + self.shift


def coupling(dims: int = 16, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    return seeded(lambda: CouplingFlow(shape, couplings=6), 3)


def spline(dims: int = 16, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    return seeded(lambda: Zuko(dims, shape), 3)


Build = Callable[..., nn.Module]
BOTH = pytest.mark.parametrize("build", [coupling, spline], ids=["coupling", "zuko"])


@BOTH
def test_the_log_determinant_is_the_jacobians(build: Build) -> None:
    flow = build().double().requires_grad_(False)
    for x in torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(1)).double():
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], x)
        expected = torch.linalg.slogdet(jacobian.view(16, 16)).logabsdet
        assert float(flow(x[None])[1]) == pytest.approx(float(expected), abs=1e-8)


@BOTH
def test_the_inverse_undoes_the_flow(build: Build) -> None:
    flow = build().double()
    x = torch.randn((8, *SHAPE), generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        assert torch.allclose(flow.inverse(flow(x)[0]), x, atol=1e-6)
        assert torch.allclose(flow(flow.inverse(x))[0], x, atol=1e-6)


@BOTH
def test_a_density_in_the_plane_integrates_to_one(build: Build) -> None:
    """The engine's own numbers: the densities at the centres of 256 x 256 bins."""
    flow = build(2, (1, 1, 2))
    engine = ready(flow_model(flow, (1, 1, 2), (-8.0, 8.0)))
    levels = torch.arange(256)
    grid = torch.cartesian_prod(levels, levels).view(-1, 1, 1, 2)
    x = ((grid + 0.5) / 256 * 16 - 8).float()
    with torch.no_grad():
        z, log_det = flow(x)
    density = torch.exp(stats_log_normal(z) + log_det.double())
    assert float(density.sum() * (16 / 256) ** 2) == pytest.approx(1, abs=0.01)
    for index in (40_000, 33_000):
        pixels = grid[index].to(torch.uint8).numpy()
        mass = math.exp(ask(engine, "likelihood", images=[pixels])[0].values["log_likelihood"])
        assert mass == pytest.approx(float(density[index]) * (16 / 256) ** 2, rel=1e-4)


def stats_log_normal(z: Tensor) -> Tensor:
    return torch.from_numpy(stats.norm.logpdf(z.double().numpy()).sum((1, 2, 3)))


@BOTH
def test_a_likelihood_is_prior_and_determinant_and_the_width_of_the_bins(build: Build) -> None:
    flow = build()
    engine = ready(flow_model(flow, SHAPE, (-1.0, 3.0)))
    pixels = some_pixels(*SHAPE, seed=4)
    values = ask(engine, "likelihood", images=[pixels])[0].values
    x = (torch.from_numpy(pixels).float() + 0.5) / 256 * 4 - 1
    with torch.no_grad():
        z, log_det = flow(x[None])
    prior, width = float(stats_log_normal(z)), 16 * math.log(4 / 256)
    expected = prior + float(log_det) + width
    assert values["log_likelihood"] == pytest.approx(expected, rel=1e-5)
    assert values["bits_per_dim"] == pytest.approx(-expected / math.log(2) / 16, rel=1e-5)
    assert values["terms"]["log_prior"] == pytest.approx(prior, rel=1e-5)
    assert values["terms"]["log_det"] == pytest.approx(float(log_det) + width, rel=1e-5)
    assert (values["kind"], values["std_error"], values["samples"]) == ("exact", 0.0, 1)


def test_more_samples_estimate_the_mass_of_the_bins() -> None:
    engine = ready(flow_model(Scaling(), (1, 1, 2), (0.0, 4.0)))
    pixels = np.array([[[30, 12]]], np.uint8)
    edges = np.stack([pixels / 256 * 4, (pixels + 1) / 256 * 4]).reshape(2, -1)
    exact = float(np.log(np.diff(stats.norm(0.4, 0.25).cdf(edges), axis=0)).sum())
    estimates = [
        ask(engine, "likelihood", images=[pixels], samples=64, seed=seed)[0].values
        for seed in range(40)
    ]
    assert estimates[0]["kind"] == "estimate"
    found = [value["log_likelihood"] for value in estimates]
    error = float(np.std(found))
    assert np.mean(found) == pytest.approx(exact, abs=4 * error / math.sqrt(40) + 1e-4)
    assert estimates[0]["std_error"] == pytest.approx(error, rel=0.4)


def test_eight_bits_of_noise_in_the_centre_carry_eight_bits() -> None:
    """Uniform data through its own distribution function: every image has 2 to the -8 per pixel."""

    class Uniform(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = torch.special.ndtri(x.double())
            return z, -stats_log_normal(z)

        def inverse(self, z: Tensor) -> Tensor:
            return torch.special.ndtr(z)

    engine = ready(flow_model(Uniform(), SHAPE, (0.0, 1.0)))
    for seed in range(3):
        pixels = some_pixels(*SHAPE, seed=seed)
        values = ask(engine, "likelihood", images=[pixels])[0].values
        assert values["bits_per_dim"] == pytest.approx(8)


@pytest.mark.parametrize("samples", [1, 5])
def test_same_seed_same_number_in_any_batch(samples: int) -> None:
    engine = ready(tiny_flow())
    images = [some_pixels(*SHAPE, seed=i) for i in range(4)]
    together = ask(engine, "likelihood", images=images, samples=samples, seed=9)
    for image, result in zip(images, together, strict=True):
        assert ask(engine, "likelihood", images=[image], samples=samples, seed=9) == [result]
    if samples > 1:
        other = ask(engine, "likelihood", images=images, samples=samples, seed=10)
        assert other[0].values["log_likelihood"] != together[0].values["log_likelihood"]


@BOTH
def test_reconstruction_changes_nothing(build: Build) -> None:
    engine = ready(flow_model(build(), SHAPE, (0.0, 1.0)))
    images = [some_pixels(*SHAPE, seed=i) for i in range(5)]
    assert np.array_equal(pixels_of(ask(engine, "reconstruct", images=images)), images)


def test_an_encoding_generates_its_image() -> None:
    engine = ready(tiny_flow())
    image = some_pixels(*SHAPE, seed=1)
    encoded = ask(engine, "encode", images=[image])[0].values
    assert encoded["kind"] == "base"
    assert Latents(**encoded["latents"]).array().shape == SHAPE
    assert np.array_equal(pixels_of(ask(engine, "generate", latents=encoded["latents"])), [image])


def test_samples_follow_the_models_own_distribution() -> None:
    engine = ready(flow_model(Scaling(), (1, 8, 8), (-1.0, 3.0)))
    pixels = np.stack(pixels_of(ask(engine, "generate", n=64, seed=0)))
    x = (pixels.astype(float) + 0.5) / 256 * 4 - 1
    error = 0.25 / math.sqrt(x.size)
    assert x.mean() == pytest.approx(0.4, abs=5 * error)
    assert x.std() == pytest.approx(0.25, rel=0.05)
    cool = np.stack(pixels_of(ask(engine, "generate", n=64, seed=0, temperature=0.2)))
    assert (cool / 256 * 4).std() == pytest.approx(0.05, rel=0.1)


def test_a_path_between_images_begins_and_ends_with_them() -> None:
    engine = ready(tiny_flow())
    images = [some_pixels(*SHAPE, seed=i) for i in (1, 2)]
    for spherical in (True, False):
        path = pixels_of(ask(engine, "interpolate", images=images, n=5, spherical=spherical))
        assert np.array_equal([path[0], path[-1]], images)


def test_a_path_between_seeds_begins_and_ends_at_their_images() -> None:
    engine = ready(tiny_flow())
    path = pixels_of(ask(engine, "interpolate", seeds=[3, 8], n=4))
    ends = [pixels_of(ask(engine, "generate", seed=seed))[0] for seed in (3, 8)]
    assert np.array_equal([path[0], path[-1]], ends)


def test_a_path_has_one_kind_of_ends() -> None:
    engine = ready(tiny_flow())
    images = [some_pixels(*SHAPE, seed=i) for i in (1, 2)]
    with pytest.raises(InvalidParameter, match="two images, got 1"):
        engine.jobs(call("interpolate", images=images[:1]))
    with pytest.raises(InvalidParameter, match="either two images, or seeds"):
        engine.jobs(call("interpolate", images=images, seeds=[1, 2]))
    latents = Latents.from_array(np.zeros(SHAPE, np.float32)).model_dump()
    with pytest.raises(InvalidParameter, match="either seeds or latents"):
        engine.jobs(call("interpolate", seeds=[1, 2], latents=[latents, latents]))


def test_an_anomaly_is_told_by_where_the_likelihood_falls_among_known_ones() -> None:
    model = flow_model(Scaling(), SHAPE, (0.0, 1.0))
    plain = ready(model)
    usual, odd = np.full(SHAPE, 102, np.uint8), np.full(SHAPE, 255, np.uint8)
    values = ask(plain, "likelihood", images=[usual])[0].values
    assert (values["percentile"], values["anomalous"]) == (None, None)
    known = np.linspace(values["log_likelihood"] - 40, values["log_likelihood"] + 40, 101).tolist()
    engine = ready(with_options(plain, reference_log_likelihoods=known))
    first, second = ask(engine, "likelihood", images=[usual, odd])
    assert first.values["percentile"] == pytest.approx(50)
    assert first.values["anomalous"] is False
    assert second.values["percentile"] == 0
    assert second.values["anomalous"] is True


def with_options(engine: Engine, **options: object) -> OpenedModel:
    return replace(engine.model, options=options)


def test_values_that_are_not_finite_are_never_answered() -> None:
    class Broken(Scaling):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * torch.nan, torch.zeros(len(x))

    engine = ready(flow_model(Broken(), SHAPE, (0.0, 1.0)))
    for name in ("likelihood", "encode", "reconstruct"):
        with pytest.raises(EngineFailure, match="not finite"):
            ask(engine, name, images=[some_pixels(*SHAPE)])


def test_what_a_flow_cannot_do_is_refused_with_what_it_can() -> None:
    engine = ready(tiny_flow())
    with pytest.raises(UnsupportedTask, match="offers generate, interpolate, reconstruct"):
        engine.jobs(call("inpaint", images=[some_pixels(*SHAPE)]))
    assert engine.describe().likelihood == "exact"
