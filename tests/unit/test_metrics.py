"""Every metric of an evaluation against a closed form or an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from model_store.evaluation.metrics.disentanglement import (
    completeness,
    concentration,
    dci,
    disentanglement,
)
from model_store.evaluation.metrics.distances import (
    class_score,
    frechet_distance,
    kernel_distance,
    sliced_wasserstein_distance,
)
from model_store.evaluation.metrics.fidelity import (
    ms_ssim,
    perceptual_distance,
    sameness,
)
from model_store.evaluation.metrics.manifolds import coverage
from model_store.evaluation.metrics.path_length import perceptual_path_length


def normal(count: int, width: int = 4, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def pictures(count: int = 4, side: int = 32, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")


def test_the_frechet_distance_is_that_of_the_fitted_gaussians() -> None:
    first, second = normal(300), normal(200, seed=1) * 1.7 + 0.5
    mean = first.mean(0) - second.mean(0)
    a, b = np.cov(first.numpy().T), np.cov(second.numpy().T)
    root = scipy.linalg.sqrtm(a @ b).real
    wanted = float(mean @ mean) + np.trace(a + b - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_is_the_unbiased_estimate() -> None:
    first, second = normal(60), normal(60, seed=1) + 1.0

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    count = len(first)
    within = sum(
        (kernel(rows, rows).sum() - kernel(rows, rows).trace()) / (count * (count - 1))
        for rows in (first, second)
    )
    wanted = float(within - 2 * kernel(first, second).mean())
    found = kernel_distance(first, second)  # one subset is the whole set
    assert found.value == pytest.approx(wanted, rel=1e-9)
    assert found.deviation == pytest.approx(0, abs=1e-9)
    assert abs(kernel_distance(normal(800), normal(800, seed=1)).value) < 0.05


def test_the_class_score_runs_from_one_to_the_number_of_classes() -> None:
    certain = 50.0 * torch.eye(4).repeat(250, 1)
    assert class_score(certain).value == pytest.approx(4, rel=0.03)
    assert class_score(torch.zeros(100, 4)).value == pytest.approx(1)
    assert class_score(certain[:1].repeat(100, 1)).value == pytest.approx(1)


def test_metrics_that_draw_do_not_disturb_torchs_own_generator() -> None:
    before = torch.get_rng_state()
    values = [kernel_distance(normal(700), normal(700, seed=1)).value for _ in range(2)]
    assert values[0] == values[1]
    assert torch.equal(before, torch.get_rng_state())


def test_the_sliced_distance_of_one_dimension_is_scipys() -> None:
    first, second = normal(200, 1), normal(200, 1, seed=1) ** 2
    wanted = np.sqrt(np.mean((np.sort(first[:, 0]) - np.sort(second[:, 0])) ** 2))
    assert sliced_wasserstein_distance(first, second) == pytest.approx(wanted)
    moved = sliced_wasserstein_distance(first, first + 3)
    assert moved == pytest.approx(scipy.stats.wasserstein_distance(first[:, 0], first[:, 0] + 3))


def test_the_sliced_distance_of_a_shift_is_its_mean_square_over_directions() -> None:
    rows, shift = normal(500, 3), torch.tensor([1.0, 2.0, 2.0]).double()
    found = sliced_wasserstein_distance(rows, rows + shift, projections=20_000)
    assert found == pytest.approx(math.sqrt(9 / 3), rel=0.02)
    fewer = sliced_wasserstein_distance(rows[:250], rows + shift, projections=2000)
    assert fewer == pytest.approx(math.sqrt(9 / 3), rel=0.1)


def test_manifolds_tell_fidelity_from_diversity() -> None:
    real = normal(400, 2)
    alike = coverage(normal(400, 2, seed=1), real)
    assert min(alike.precision, alike.recall) > 0.9
    assert alike.density == pytest.approx(1, abs=0.15)
    assert alike.coverage > 0.9
    collapsed = coverage(real[:1] + 0.01 * normal(400, 2, seed=1), real)
    assert collapsed.precision > 0.9
    assert collapsed.recall < 0.05
    assert collapsed.coverage < 0.1
    far = coverage(real + 100, real)
    assert far == (0, 0, 0, 0)


def test_manifolds_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0], [6.0]])  # reaching 1, 1, 2 and 3
    samples = torch.tensor([[0.5], [4.5], [20.0]])  # reaching 4, 4 and 15.5
    found = coverage(samples, real, neighbours=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx((2 + 2) / 3)
    assert found.coverage == pytest.approx(4 / 4)
    assert found.recall == pytest.approx(4 / 4)


def test_disentanglement_of_the_textbook_code() -> None:
    """Importances 0.8 and 0.1 of one number over two factors: 1 - H(8/9, 1/9) / ln 2."""
    importances = np.array([[0.8, 0.1]])
    entropy = scipy.stats.entropy([8 / 9, 1 / 9])
    assert disentanglement(importances) == pytest.approx(1 - entropy / math.log(2))
    assert disentanglement(importances) == pytest.approx(0.497, abs=5e-4)
    assert concentration(np.eye(3)) == pytest.approx(1)
    assert concentration(np.ones((2, 5))) == pytest.approx(0, abs=1e-12)
    permuted = np.array([[0.0, 2.0], [1.0, 0.0]])
    assert disentanglement(permuted) == completeness(permuted) == pytest.approx(1)
    assert disentanglement(np.zeros((2, 2))) == 0


def test_a_code_of_the_factors_themselves_is_disentangled_and_a_rotated_one_is_not() -> None:
    generator = torch.Generator().manual_seed(3)
    factors = torch.randint(4, (600, 2), generator=generator)
    noise = 0.05 * torch.randn(600, 2, generator=generator)
    apart = factors + noise
    turned = apart @ torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    scores = [dci(code[:400], factors[:400], code[400:], factors[400:]) for code in (apart, turned)]
    assert scores[0].disentanglement > 0.95
    assert scores[0].completeness > 0.95
    assert scores[0].informativeness > 0.99
    assert scores[1].disentanglement < 0.5
    assert scores[0].importances.shape == (2, 2)


def test_larger_scales_forgive_noise() -> None:
    real = pictures()
    generator = torch.Generator().manual_seed(5)
    images = (real + 0.1 * torch.randn(real.shape, generator=generator)).clamp(-1, 1)
    assert ms_ssim(real, real) == pytest.approx(1)
    assert 0.8 < ms_ssim(images, real) < 0.999
    halved = [torch.nn.functional.avg_pool2d((x.double() + 1) / 2, 2) for x in (images, real)]
    full = multiscale_structural_similarity_index_measure(
        *((x.double() + 1) / 2 for x in (images, real)), data_range=1.0, betas=(1.0,)
    )
    assert ms_ssim(*(2 * x - 1 for x in halved)) > float(full)  # noise averages out with size


def test_samples_that_are_all_alike_are_told_by_their_sameness() -> None:
    assert sameness(pictures(1).repeat(6, 1, 1, 1)) == pytest.approx(1)
    assert sameness(pictures(6)) < 0.6


def test_the_perceptual_distance_is_of_directions_of_features() -> None:
    first, second = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    first[:, 0], second[:, 0] = 1.0, 5.0
    assert float(perceptual_distance([first], [second])) == pytest.approx(0)
    second[:, 0, 0, 0], second[:, 1, 0, 0] = 0.0, 3.0  # at one place of four, at a right angle
    assert float(perceptual_distance([first], [second])) == pytest.approx(2 / 4)
    assert float(perceptual_distance([first] * 2, [second] * 2)) == pytest.approx(1)


def test_the_path_length_of_a_linear_generator_is_its_speed() -> None:
    """Along a great circle of radius r through an angle a, the speed is r a (with d squared)."""

    def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one - other).square().flatten(1).sum(dim=1)

    def slow(z: torch.Tensor) -> torch.Tensor:
        return z.double()

    def fast(z: torch.Tensor) -> torch.Tensor:
        return 3 * z.double()

    lengths = [
        perceptual_path_length(one, distance, (64,), pairs=400, seed=2) for one in (slow, fast)
    ]
    assert lengths[1] == pytest.approx(9 * lengths[0], rel=1e-3)
    # In 64 dimensions nearly all directions are at a right angle, at a distance of 8.
    assert lengths[0] == pytest.approx(64 * (math.pi / 2) ** 2, rel=0.05)
