"""Paths between latents: ends, lengths, angles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from services.sampling.interpolation import lerp, slerp

FRACTIONS = (0.0, 0.2, 0.5, 0.9, 1.0)


def latent(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (4, 8, 8), generator=torch.Generator().manual_seed(seed))


def angle(a: Tensor, b: Tensor) -> float:
    cosine = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())
    return math.acos(float(cosine.clamp(-1, 1)))


@pytest.mark.parametrize("path", [lerp, slerp])
def test_paths_begin_and_end_where_they_should(path: object) -> None:
    start, end = latent(0), latent(1)
    assert torch.allclose(path(start, end, 0.0), start, atol=1e-6)  # type: ignore[operator]
    assert torch.allclose(path(start, end, 1.0), end, atol=1e-6)  # type: ignore[operator]


def test_the_great_circle_keeps_the_length_and_moves_at_constant_speed() -> None:
    start, end = (latent(i).double() / latent(i).double().norm() * 5 for i in (0, 1))
    whole = angle(start, end)
    for fraction in FRACTIONS:
        point = slerp(start, end, fraction)
        assert float(point.norm()) == pytest.approx(5)
        assert angle(start, point) == pytest.approx(fraction * whole, abs=1e-6)


def test_the_great_circle_of_a_right_angle_has_its_closed_form() -> None:
    start, end = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for fraction in FRACTIONS:
        turn = fraction * math.pi / 2
        expected = [math.cos(turn), math.sin(turn)]
        assert slerp(start, end, fraction).tolist() == pytest.approx(expected, abs=1e-6)


def test_walking_back_passes_the_same_points() -> None:
    start, end = latent(2), latent(3)
    for fraction in FRACTIONS:
        assert torch.allclose(
            slerp(start, end, fraction), slerp(end, start, 1 - fraction), atol=1e-5
        )


def test_gaussian_latents_stay_as_long_as_gaussian_latents_are() -> None:
    """The straight line loses a third of the length on its way; the great circle does not."""
    start, end = latent(4), latent(5)
    typical = math.sqrt(start.numel())
    assert float(slerp(start, end, 0.5).norm()) == pytest.approx(typical, rel=0.1)
    assert float(lerp(start, end, 0.5).norm()) < 0.8 * typical


def test_parallel_and_zero_latents_take_the_straight_line() -> None:
    start = latent(6)
    cases = ((start, start), (start, 2 * start), (start, -start), (start, 0 * start))
    for begin, end in cases:
        for fraction in FRACTIONS:
            point = slerp(begin, end, fraction)
            assert torch.isfinite(point).all()
    assert torch.allclose(slerp(start, 2 * start, 0.5), 1.5 * start, atol=1e-6)


def test_shape_and_type_are_kept() -> None:
    point = slerp(latent(0, 2, 3, 5), latent(1, 2, 3, 5), 0.3)
    assert point.shape == (2, 3, 5)
    assert point.dtype == torch.float32
