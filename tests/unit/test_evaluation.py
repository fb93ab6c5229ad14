"""What cards are measured with: against closed forms, and an independent library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage import metrics
from torch import Tensor, nn

from model_store.evaluation import ddpm
from model_store.evaluation.enlargement import psnr, rounded, sharpness, ssim
from model_store.evaluation.probability_flow import log_likelihood
from model_store.evaluation.sampled import sample
from model_store.recipes import digit_quality, digits
from services.sampling.samplers import make_plan
from services.sampling.schedule import VariancePreserving

STD, SHAPE = 0.5, (1, 4, 4)
SCHEDULE = VariancePreserving()


class Optimal(nn.Module):
    """The noise that is expected in states of images ``N(0, STD^2)``."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = torch.from_numpy(SCHEDULE.signal()).float()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``sigma x / (alpha^2 STD^2 + sigma^2)``, levels between times as samplers have them."""
        low = t.floor().long()
        high = (low + 1).clamp(max=len(self.signal) - 1)
        ratios = 0.5 * torch.log((1 - self.signal) / self.signal)
        ratio = torch.lerp(ratios[low], ratios[high], t - low).exp()
        alpha = 1 / torch.sqrt(1 + ratio.square())
        sigma = ratio * alpha
        gain = sigma / (alpha.square() * STD**2 + sigma.square())
        return gain.view(-1, 1, 1, 1) * x


def log_density(x: Tensor) -> Tensor:
    """Of ``N(0, STD^2)``, in nats."""
    found: Tensor = torch.distributions.Normal(0.0, STD).log_prob(x.double()).flatten(1).sum(1)
    return found


def images(count: int) -> Tensor:
    """Draws of the data."""
    return STD * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun"])
def test_samples_of_the_optimal_network_have_the_spread_of_the_data(sampler: str) -> None:
    plan = make_plan(sampler, SCHEDULE, 40)
    found = sample(Optimal(), plan, "epsilon", (400, *SHAPE), seed=1)
    assert float(found.std()) == pytest.approx(STD, rel=0.04)
    assert float(found.mean()) == pytest.approx(0.0, abs=0.03)


def test_a_guide_moves_samples_and_a_clip_holds_them() -> None:
    plan = make_plan("ddim", SCHEDULE, 20)

    def guide(denoised: Tensor, x: Tensor, time: float, alpha: float, sigma: float) -> Tensor:
        return denoised + 0.3

    plain, guided = (
        sample(Optimal(), plan, "epsilon", (50, *SHAPE), seed=1, guide=one) for one in (None, guide)
    )
    assert float((guided - plain).mean()) > 0.2
    clipped = sample(Optimal(), plan, "epsilon", (50, *SHAPE), seed=1, clip=0.2)
    assert float(clipped.abs().max()) <= 0.25
    assert float(plain.abs().max()) > 0.5


def test_the_odes_likelihood_of_the_optimal_network_is_the_datas() -> None:
    x = images(64)
    found = log_likelihood(Optimal(), x, SCHEDULE, "epsilon", steps=24, seed=5)
    least = 1 - float(SCHEDULE.signal()[0])
    smeared = torch.distributions.Normal(0.0, math.sqrt(STD**2 + least / (1 - least)))
    expected = float(smeared.entropy()) * -16
    error = float((found - log_density(x)).mean())
    assert float(log_density(x).mean()) == pytest.approx(expected, abs=1.5)
    assert error == pytest.approx(0.0, abs=0.1)


def test_the_bound_lies_below_the_likelihood_and_terms_that_are_left_out_are_stood_in_for() -> None:
    x = images(64)
    signal = torch.from_numpy(SCHEDULE.signal()).float()
    truth = float(log_density(x).mean())
    whole, sparse = (
        [float(ddpm.bound(Optimal(), x, signal, seed=s, every=n).mean()) for s in range(4)]
        for n in (1, 8)
    )
    assert max(whole) < truth
    assert np.mean(sparse) == pytest.approx(np.mean(whole), abs=1.0)


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    generator = torch.Generator().manual_seed(4)
    real = torch.rand(2, 3, 24, 20, generator=generator) * 2 - 1
    worse = real + 0.2 * torch.randn(real.shape, generator=generator)
    for i in range(2):
        first, second = (rounded(one[i]).permute(1, 2, 0).numpy() for one in (real, worse))
        expected = metrics.peak_signal_noise_ratio(first, second, data_range=1.0)
        assert float(psnr(worse, real)[i]) == pytest.approx(expected, rel=1e-9)
        expected = metrics.structural_similarity(
            first,
            second,
            channel_axis=2,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(ssim(worse, real)[i]) == pytest.approx(expected, rel=1e-6)


def test_sharpness_is_the_share_of_the_laplacians_energy() -> None:
    real = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4)) - 0.5
    assert sharpness(real, real) == 1.0
    assert sharpness(0.5 * real, real) == pytest.approx(0.25, rel=0.02)


def test_precision_and_recall_tell_missing_variety_from_missing_likeness() -> None:
    """Two clusters: samples of one of them are precise, and recall the half of what there is."""
    source = np.random.default_rng(0)
    one, other = source.normal(0, 1, (100, 2)), source.normal(50, 1, (100, 2))
    real = np.concatenate([one, other])
    narrow = digit_quality.precision_and_recall(source.normal(0, 0.5, (100, 2)), real)
    assert narrow[0] > 0.95
    assert narrow[1] < 0.5
    far = digit_quality.precision_and_recall(source.normal(25, 1, (100, 2)), real)
    assert far == (0.0, 0.0)
    assert digit_quality.precision_and_recall(real, real) == (1.0, 1.0)


def test_the_frechet_distance_of_two_gaussians_has_a_closed_form() -> None:
    """Independent pixels: ``sum (m1 - m2)^2 + (s1 - s2)^2``."""
    source = np.random.default_rng(0)
    rows = source.normal(0, 1, (4000, 64))
    found = digit_quality.frechet_distance(3 + 2 * rows, rows)
    assert found == pytest.approx(9 + 1, rel=0.05)
    assert digit_quality.frechet_distance(rows, rows) == pytest.approx(0.0, abs=1e-4)


def test_real_digits_are_read_and_noise_is_not() -> None:
    test, target = digits.levels("test")
    real = digits.signed((test + 0.5) / digits.LEVELS)
    assert np.allclose(digit_quality.in_levels(real), test.flatten(1).numpy())
    assert float((digit_quality.read(real) == target).float().mean()) > 0.97
    noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert digit_quality.readable(digit_quality.in_levels(noise)) < 0.6
    assert digit_quality.readable(digit_quality.in_levels(real)) > 0.95
