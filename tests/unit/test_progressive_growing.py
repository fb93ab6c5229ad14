"""A network that grows: nothing jumps when a resolution begins to fade in."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from model_store.architectures.equalized import (
    EqualizedConvolution,
    EqualizedLinear,
    pixel_norm,
)
from model_store.architectures.progan import (
    SIDES,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    doubled,
    variation,
)
from model_store.recipes.growth import TIMETABLE, Moment, follow, made_at, moment, real_at

CHANNELS = (8, 6, 5, 4)
LATENT = 7


@pytest.fixture
def generator() -> ProgressiveGenerator:
    torch.manual_seed(0)
    return ProgressiveGenerator(LATENT, CHANNELS).eval()


def noise(count: int) -> torch.Tensor:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(1))


def test_the_timetable_grows_from_the_first_resolution_to_the_last() -> None:
    assert moment(0.0) == Moment(0, 1.0)
    assert tuple(moment(0.3)) == pytest.approx((1, 0.5))
    assert moment(0.4) == Moment(1, 1.0)
    assert tuple(moment(0.56)) == pytest.approx((2, 0.5))
    assert moment(1.0) == Moment(2, 1.0)
    stages = [moment(step / 100).stage for step in range(101)]
    assert stages == sorted(stages)
    assert TIMETABLE[-1].until == 1.0


@pytest.mark.parametrize("stage", [1, 2])
def test_a_resolution_begins_as_the_one_below_doubled(
    generator: ProgressiveGenerator, stage: int
) -> None:
    with torch.no_grad():
        before = made_at(generator, noise(3), Moment(stage - 1, 1.0))
        begun = made_at(generator, noise(3), Moment(stage, 0.0))
        ended = made_at(generator, noise(3), Moment(stage, 1.0))
    assert torch.equal(begun, doubled(before))
    assert torch.equal(ended, generator(noise(3))[stage])


@pytest.mark.parametrize("stage", [1, 2])
def test_the_opponent_does_not_notice_new_layers_before_they_fade_in(stage: int) -> None:
    torch.manual_seed(0)
    opponent = ProgressiveDiscriminator(CHANNELS)
    image = torch.randn(4, 3, SIDES[stage], SIDES[stage])
    with torch.no_grad():
        new = opponent(image, stage, 0.0)
        old = opponent(functional.avg_pool2d(image, 2), stage - 1)
        grown = opponent(image, stage)
    torch.testing.assert_close(new, old)
    assert not torch.allclose(grown, old)


def test_real_images_are_shrunk_and_faded_as_made_ones_are() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(real_at(images, Moment(2, 1.0)), images)
    small = real_at(images, Moment(0, 1.0))
    torch.testing.assert_close(small, functional.avg_pool2d(images, 4))
    torch.testing.assert_close(real_at(images, Moment(1, 0.0)), doubled(small))


def test_coarser_outputs_follow_the_finest_as_closely_as_their_features_allow(
    generator: ProgressiveGenerator,
) -> None:
    z = noise(40)

    def errors() -> list[float]:
        with torch.no_grad():
            *coarser, finest = generator(z)
        wanted = [functional.avg_pool2d(finest.clamp(-1, 1), 32 // side) for side in SIDES[:-1]]
        return [float((a - b).square().mean()) for a, b in zip(coarser, wanted, strict=True)]

    with torch.no_grad():
        finest = generator(z)[-1]
    before = errors()
    follow(generator, z)
    fitted = errors()
    assert all(after < was for after, was in zip(fitted, before, strict=True))
    torch.testing.assert_close(generator(z)[-1].detach(), finest)
    for layer in generator.to_rgb[:-1]:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.05)
    assert all(moved > best for moved, best in zip(errors(), fitted, strict=True))


def test_equalised_weights_start_alike_and_answer_with_the_gain_whatever_their_width() -> None:
    torch.manual_seed(0)
    for width in (4, 256):
        layer = EqualizedLinear(width, 2000)
        assert float(layer.weight.std().detach()) == pytest.approx(1, rel=0.05)
        x = torch.randn(1, width)
        expected = math.sqrt(2 * float(x.square().mean()))
        assert float(layer(x).std().detach()) == pytest.approx(expected, rel=0.05)
    convolution = EqualizedConvolution(16, 2000, 3, gain=1.0)
    x = torch.randn(1, 16, 3, 3)
    middle = convolution(x)[0, :, 1, 1]
    assert float(middle.std().detach()) == pytest.approx(float(x.square().mean().sqrt()), rel=0.1)


def test_pixel_normalisation_brings_each_pixel_to_unit_mean_square() -> None:
    h = pixel_norm(5 * torch.randn(2, 6, 4, 4))
    torch.testing.assert_close(h.square().mean(dim=1), torch.ones(2, 4, 4))


def test_the_opponent_sees_how_much_a_batch_varies() -> None:
    same = torch.randn(1, 3, 2, 2).expand(5, -1, -1, -1)
    assert float(variation(same).max()) == pytest.approx(1e-4, rel=0.01)
    apart = torch.randn(4000, 3, 2, 2)
    assert variation(apart).shape == (4000, 1, 2, 2)
    assert float(variation(apart).mean()) == pytest.approx(1, rel=0.05)


def test_a_generator_needs_a_width_for_every_resolution() -> None:
    with pytest.raises(ValueError, match="channels has 2 widths; there are 4"):
        ProgressiveGenerator(8, (4, 4))
