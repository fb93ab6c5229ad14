"""Likelihoods and bounds against scipy, numerical integration and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from services.sampling.bounds import (
    bits_per_dim,
    diffusion_last_term,
    diffusion_prior_term,
    diffusion_term,
    discretized_logistic_log_likelihood,
    gaussian_entropy,
    gaussian_log_density,
    importance_weighted_bound,
    kl_to_standard_normal,
    percentile_among,
    standard_normal_log_density,
)
from services.sampling.schedule import Flow, Schedule, VariancePreserving
from tests.gaussian_data import GaussianData

BOTH = pytest.mark.parametrize(
    "schedule",
    [VariancePreserving(), VariancePreserving(beta_schedule="squaredcos_cap_v2"), Flow()],
    ids=["linear", "cosine", "flow"],
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussian_densities_equal_scipys() -> None:
    x, mean, log_variance = random(5, 2, 3), random(5, 2, 3, seed=1), random(5, 2, 3, seed=2)
    expected = stats.norm(mean, np.exp(0.5 * log_variance.numpy())).logpdf(x).sum((1, 2))
    assert gaussian_log_density(x, mean, log_variance).numpy() == pytest.approx(expected)
    expected = stats.norm.logpdf(x).sum((1, 2))
    assert standard_normal_log_density(x).numpy() == pytest.approx(expected)


def test_entropy_equals_scipys() -> None:
    log_variance = random(4, 6)
    expected = [
        stats.multivariate_normal(cov=np.diag(variances)).entropy()
        for variances in np.exp(log_variance.numpy())
    ]
    assert gaussian_entropy(log_variance).numpy() == pytest.approx(expected)


def test_kl_equals_its_integral() -> None:
    for mean, log_variance in ((0.0, 0.0), (1.3, -2.0), (-0.4, 1.1)):
        q = stats.norm(mean, math.exp(0.5 * log_variance))

        def integrand(z: float, q: object = q) -> float:
            return float(q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)))  # type: ignore[attr-defined]

        expected, _ = integrate.quad(integrand, -30, 30, points=[mean], limit=200)
        found = kl_to_standard_normal(torch.tensor([[mean]]), torch.tensor([[log_variance]]))
        assert float(found) == pytest.approx(expected, abs=1e-6)


def test_kl_of_several_dimensions_equals_the_matrix_form() -> None:
    mean, log_variance = random(3, 5), random(3, 5, seed=1)
    variance = np.exp(log_variance.numpy())
    for row in range(3):
        trace, square = variance[row].sum(), float((mean[row] ** 2).sum())
        determinant = np.linalg.slogdet(np.diag(variance[row]))[1]
        expected = 0.5 * (trace + square - 5 - determinant)
        assert float(kl_to_standard_normal(mean, log_variance)[row]) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.3, 4.0, 30.0])
@pytest.mark.parametrize("mean", [-3.0, 0.0, 100.25, 128.0, 255.0, 300.0])
def test_discretized_logistic_equals_scipys_mass_of_each_bin(mean: float, scale: float) -> None:
    values = torch.arange(256, dtype=torch.float64)[:, None]
    found = discretized_logistic_log_likelihood(values, torch.full_like(values, mean), scale)
    logistic = stats.logistic(mean, scale)
    edges = np.arange(255) + 0.5
    below, above = logistic.cdf(edges), logistic.sf(edges)
    inside = np.where(edges[:-1] < mean, np.diff(below), -np.diff(above))
    expected = np.concatenate(([below[0]], inside, [above[-1]]))
    assert torch.exp(found).numpy() == pytest.approx(expected, rel=1e-6, abs=1e-300)
    assert float(torch.exp(found).sum()) == pytest.approx(1, abs=1e-12)


def test_discretized_logistic_does_not_cancel_in_its_tails() -> None:
    """Far from the mean the mass falls by ``exp(-1 / scale)`` from bin to bin."""
    values = torch.arange(1, 255, dtype=torch.float64)[:, None]
    for mean, direction in ((-5000.0, -1.0), (5000.0, 1.0)):
        found = discretized_logistic_log_likelihood(values, torch.full_like(values, mean), 2.0)
        assert torch.isfinite(found).all()
        assert torch.diff(found).numpy() == pytest.approx(direction * 0.5)
    single = discretized_logistic_log_likelihood(
        values.float(), torch.full_like(values, 5000.0).float(), 2.0
    )
    assert torch.isfinite(single).all()


def test_bits_per_dim_of_a_fair_coin_per_pixel_is_one() -> None:
    assert bits_per_dim(64 * math.log(0.5), 64) == pytest.approx(1)


def test_sums_do_not_depend_on_the_other_rows() -> None:
    """Large enough that torch would split a single row's sum among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        z = random(5, 3, 160, 160).float()
        together = standard_normal_log_density(z)
        alone = torch.cat([standard_normal_log_density(row[None]) for row in z])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone)


class LinearGaussian:
    """``z ~ N(0, I)``, ``x | z ~ N(W z + b, s^2 I)``, and a posterior that is somewhat off."""

    weights = np.array([[1.0, 0.4], [-0.3, 0.8], [0.5, 0.5]])
    shift = np.array([0.2, -0.1, 0.4])
    std = 0.5
    x = np.array([0.9, -1.1, 0.3])

    def exact(self) -> float:
        covariance = self.weights @ self.weights.T + self.std**2 * np.eye(3)
        return float(stats.multivariate_normal(self.shift, covariance).logpdf(self.x))

    def log_weights(self, runs: int, count: int) -> Tensor:
        precision = np.eye(2) + self.weights.T @ self.weights / self.std**2
        posterior = np.linalg.inv(precision)
        mean = posterior @ self.weights.T @ (self.x - self.shift) / self.std**2 + 0.15
        log_variance = torch.from_numpy(np.log(1.4 * np.diag(posterior))).expand(runs * count, 2)
        center = torch.from_numpy(mean).expand(runs * count, 2)
        z = center + torch.exp(0.5 * log_variance) * random(runs * count, 2, seed=count)
        output = z @ torch.from_numpy(self.weights).T + torch.from_numpy(self.shift)
        noise = torch.full_like(output, 2 * math.log(self.std))
        likelihood = gaussian_log_density(torch.from_numpy(self.x).expand_as(output), output, noise)
        weights = likelihood + standard_normal_log_density(z)
        return (weights - gaussian_log_density(z, center, log_variance)).view(runs, count)


def test_more_samples_tighten_the_bound_of_a_linear_gaussian_model_from_below() -> None:
    model, runs = LinearGaussian(), 4000
    exact = model.exact()
    means, errors = [], []
    for count in (1, 4, 16, 64):
        bounds, _ = importance_weighted_bound(model.log_weights(runs, count))
        means.append(float(bounds.mean()))
        errors.append(float(bounds.std()) / math.sqrt(runs))
    for i in range(3):
        assert means[i + 1] > means[i] + 3 * math.hypot(errors[i], errors[i + 1])
    assert all(mean < exact for mean in means)
    assert exact - means[-1] < 0.02


def test_the_exact_posterior_makes_every_weight_the_likelihood() -> None:
    model = LinearGaussian()
    posterior = np.linalg.inv(np.eye(2) + model.weights.T @ model.weights / model.std**2)
    mean = posterior @ model.weights.T @ (model.x - model.shift) / model.std**2
    z = stats.multivariate_normal(mean, posterior).rvs(50, random_state=0)
    joint = stats.norm.logpdf(z).sum(1)
    joint += stats.norm(z @ model.weights.T + model.shift, model.std).logpdf(model.x).sum(1)
    weights = joint - stats.multivariate_normal(mean, posterior).logpdf(z)
    bound, error = importance_weighted_bound(torch.from_numpy(weights)[None])
    assert float(bound) == pytest.approx(model.exact())
    assert float(error) == pytest.approx(0, abs=1e-10)


def test_the_standard_error_is_the_spread_of_repeated_bounds() -> None:
    bounds, errors = importance_weighted_bound(LinearGaussian().log_weights(3000, 200))
    assert float(errors.median()) == pytest.approx(float(bounds.std()), rel=0.1)


def test_the_standard_error_is_the_jackknifes() -> None:
    weights = 3 * random(4, 9, seed=2)
    bound, error = importance_weighted_bound(weights)
    for row, found in enumerate(error.tolist()):
        plain = np.exp(weights[row].numpy())
        left_out = [math.log(np.delete(plain, i).mean()) for i in range(9)]
        assert found == pytest.approx(math.sqrt(8 / 9 * 9 * np.var(left_out)))
        assert float(bound[row]) == pytest.approx(math.log(plain.mean()))


def test_one_weight_that_outweighs_all_others_leaves_the_error_as_large_as_it_is() -> None:
    """The delta method says 1 nat here, at most, whatever the weights are."""
    weights = torch.full((1, 64), -800.0, dtype=torch.float64)
    weights[0, 5] = -700.0
    _, error = importance_weighted_bound(weights)
    assert float(error) == pytest.approx(100, rel=0.1)
    bounds, errors = importance_weighted_bound(12 * random(3000, 64, seed=3))
    told = float(errors.square().mean().sqrt())
    assert told == pytest.approx(float(bounds.std()), rel=0.25)
    assert told > 3


def test_one_sample_has_no_standard_error() -> None:
    bound, error = importance_weighted_bound(torch.tensor([[-3.0]]))
    assert float(bound) == -3
    assert math.isnan(float(error))


@BOTH
def test_each_term_of_a_gaussian_denoiser_has_its_closed_form_as_mean(schedule: Schedule) -> None:
    data, steps, draws = GaussianData(0.6, schedule), 12, 20_000
    x_0 = torch.tensor([0.9, -0.4, 0.1], dtype=torch.float64)
    grid = schedule.bound_grid(steps)
    levels = list(zip(grid.alphas.tolist(), grid.sigmas.tolist(), strict=True))
    for i, expected in enumerate(data.expected_terms(x_0, steps)):
        alpha, sigma = levels[i]
        x = alpha * x_0 + sigma * random(draws, 3, seed=i)
        found = diffusion_term(
            x_0.expand(draws, 3), data.denoise(x, alpha, sigma), levels[i], levels[i + 1]
        )
        error = float(found.std()) / math.sqrt(draws)
        assert float(found.mean()) == pytest.approx(expected, abs=5 * error + 1e-9)


def test_a_diffusion_term_is_the_divergence_of_the_two_gaussians_that_it_stands_for() -> None:
    """Kingma et al. (2021), eq. 31 to 33: both have q's variance, and means that are D apart."""
    x_0, denoised = random(1, 4), random(1, 4, seed=1)
    alpha, sigma = math.sqrt(0.3), math.sqrt(0.7)
    cleaner_alpha, cleaner_sigma = math.sqrt(0.8), math.sqrt(0.2)
    ratio = alpha / cleaner_alpha
    between = sigma**2 - ratio**2 * cleaner_sigma**2
    variance = between * cleaner_sigma**2 / sigma**2
    distance = cleaner_alpha * between / sigma**2 * (x_0 - denoised)
    expected = float(distance.square().sum()) / (2 * variance)
    found = diffusion_term(x_0, denoised, (alpha, sigma), (cleaner_alpha, cleaner_sigma))
    assert float(found) == pytest.approx(expected)


def test_the_last_term_is_the_mean_surprise_of_reading_the_cleanest_level() -> None:
    alpha, sigma, dims = 0.98, 0.2, 3
    x_0 = random(1, dims)
    x = alpha * x_0 + sigma * random(200_000, dims, seed=1)
    surprise = -stats.norm(x / alpha, sigma / alpha).logpdf(x_0).sum(1)
    error = surprise.std() / math.sqrt(len(surprise))
    assert diffusion_last_term(dims, (alpha, sigma)) == pytest.approx(
        surprise.mean(), abs=5 * error
    )


def test_pure_noise_has_no_prior_term() -> None:
    assert float(diffusion_prior_term(random(1, 4), (0.0, 1.0))) == 0


@BOTH
def test_the_bound_of_a_gaussian_model_converges_to_its_likelihood_from_below(
    schedule: Schedule,
) -> None:
    """Expected over the noise in closed form, for images that the model itself could have drawn."""
    std, dims = 0.6, 3
    data = GaussianData(std, schedule)
    for x_0 in std * random(5, dims):
        exact = float(stats.norm(0, std).logpdf(x_0).sum())
        gaps = []
        for steps in (20, 200, 2000):
            grid = schedule.bound_grid(steps)
            ends = [(float(grid.alphas[i]), float(grid.sigmas[i])) for i in (0, -1)]
            cost = sum(data.expected_terms(x_0, steps))
            cost += float(diffusion_prior_term(x_0[None], ends[0]))
            cost += diffusion_last_term(dims, ends[1])
            gaps.append(exact + cost)
        assert gaps[0] > 5 * gaps[1] > 25 * gaps[2] > 0
        assert gaps[2] < 0.12


def test_percentiles_are_read_off_evenly_spaced_quantiles() -> None:
    reference = np.quantile(stats.norm.rvs(size=20_000, random_state=0), np.linspace(0, 1, 101))
    for value in (-2.0, 0.0, 0.7):
        expected = 100 * stats.norm.cdf(value)
        assert percentile_among(value, reference.tolist()) == pytest.approx(expected, abs=1.5)
    assert percentile_among(-100, reference.tolist()) == 0
    assert percentile_among(100, reference.tolist()) == 100
