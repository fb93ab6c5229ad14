"""What the cards of the digit GANs rest on: against closed forms and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from model_store.architectures.digit_gan import StridedGenerator
from model_store.architectures.perceptron_gan import PerceptronGenerator
from model_store.recipes import digit_gans as gans
from model_store.recipes.code_agreement import agreement, correlation, ink, slant
from model_store.recipes.digits_wgan_gp import gradient_penalty


def test_categories_that_are_digits_under_other_names_match_perfectly() -> None:
    digits = torch.arange(10).repeat(20)
    found = agreement((digits + 3) % 10, digits)
    assert found["accuracy"] == 1.0
    assert found["mutual_information_bits"] == pytest.approx(math.log2(10), abs=1e-4)
    assert found["digit_of_category"]["3"] == 0


def test_one_category_for_everything_says_nothing_of_the_digit() -> None:
    found = agreement(torch.zeros(200, dtype=torch.int64), torch.arange(10).repeat(20))
    assert found["accuracy"] == 0.1
    assert found["mutual_information_bits"] == 0


def test_a_category_split_between_two_digits_counts_for_one_of_them() -> None:
    categories, digits = torch.tensor([0, 0, 0, 1]), torch.tensor([5, 5, 6, 6])
    found = agreement(categories, digits)
    assert found["accuracy"] == 0.75
    conditional = 0.75 * (-(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3))
    assert found["mutual_information_bits"] == pytest.approx(1 - conditional, abs=1e-4)


def line(columns: list[int]) -> torch.Tensor:
    """An image of one stroke: a bright pixel in each row."""
    image = -torch.ones(1, 1, len(columns), 8)
    for row, column in enumerate(columns):
        image[0, 0, row, column] = 1
    return image


def test_a_strokes_slant_is_columns_per_row() -> None:
    assert float(slant(line([3] * 8))) == pytest.approx(0, abs=1e-9)
    assert float(slant(line(list(range(8))))) == pytest.approx(1)
    assert float(slant(line(list(reversed(range(8)))))) == pytest.approx(-1)


def test_ink_is_the_mean_brightness() -> None:
    assert float(ink(line([0] * 8))) == pytest.approx(8 / 64)


def test_correlation_is_pearsons() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    assert correlation(x, -3 * x + 1) == -1
    assert correlation(x, torch.tensor([1.0, 0.0, 1.0])) == pytest.approx(0.1890, abs=1e-4)


class Slope(nn.Module):
    """A critic whose gradient has the norm ``steepness`` everywhere."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(steepness))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.steepness * image.flatten(1).sum(dim=1) / 8


def test_the_gradient_penalty_is_the_squared_distance_of_the_slope_from_one() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 5, 1, 8, 8, generator=generator)
    for steepness in (1.0, 3.0):
        critic = Slope(steepness)
        penalty = gradient_penalty(critic, real, fake, generator)
        penalty.backward()
        assert float(penalty.detach()) == pytest.approx((steepness - 1) ** 2, abs=1e-5)
        assert float(critic.steepness.grad) == pytest.approx(2 * (steepness - 1), abs=1e-4)


def test_normalisation_is_settled_on_the_final_weights() -> None:
    generator = StridedGenerator(latent=4, width=4)
    source = torch.Generator().manual_seed(1)
    first = generator.layers[0]
    settled = gans.settled(generator, lambda count: {"z": torch.randn(count, 4, generator=source)})
    norm = settled.layers[1]
    # z is standard normal, so a feature's variance is the sum of its squared weights over z.
    expected = first.weight.square().sum(dim=0).mean(dim=(1, 2))
    assert not settled.training
    assert norm.running_var.tolist() == pytest.approx(expected.tolist(), rel=0.1)
    assert norm.momentum == 0.1


def test_what_a_critic_sees_is_moved_by_a_pixel_at_most_and_background_comes_in() -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.full((200, 1, 8, 8), gans.BACKGROUND)
    images[:, :, 4, 4] = 1.0
    moved = gans.moved(images, generator)
    places = moved.flatten(1).argmax(dim=1)
    assert set(places.tolist()) == {36, 35, 37, 28, 44}
    assert 0.5 < float((places == 36).float().mean()) < 0.7
    assert moved.flatten(1).sum(dim=1) == pytest.approx(images.flatten(1).sum(dim=1), abs=1e-3)


def metrics(coverage: float, **shares: float) -> dict[str, Any]:
    share = {str(i): 0.1 for i in range(10)} | {k.removeprefix("d"): v for k, v in shares.items()}
    return {"digit_share": share, "coverage": coverage, "real": {"coverage": 1.0}}


def test_mode_collapse_is_called_by_name_where_it_shows() -> None:
    assert gans.collapse(metrics(0.9, d3=0.0)).startswith("Mode collapse: the digits 3 come")
    assert gans.collapse(metrics(0.5)).startswith("Mode collapse within digits")
    assert "rarest, 7, makes 5.0%" in gans.collapse(metrics(0.9, d7=0.05))


def test_normalisation_between_linear_layers_is_settled_too() -> None:
    torch.manual_seed(0)
    generator = PerceptronGenerator(latent=4, hidden=(6,))
    source = torch.Generator().manual_seed(1)
    settled = gans.settled(generator, lambda count: {"z": torch.randn(count, 4, generator=source)})
    expected = settled.layers[0].weight.square().sum(dim=1)
    assert settled.layers[1].running_var.tolist() == pytest.approx(expected.tolist(), rel=0.1)
    assert not settled.training


def test_a_card_calls_collapse_by_name_between_its_other_limits() -> None:
    gan = gans.DigitGan(
        id="digits-tiny-gan",
        description="Tiny.",
        summary="Tiny.",
        training="Short.",
        limits=(("First.",), ("Last.",)),
        tags=("tiny",),
    )
    card = gans.card(gan, metrics(0.5), "Two steps")
    first, middle, last = card.limits
    assert (first, last) == ("First.", "Last.")
    assert middle.startswith("Mode collapse within digits")
    assert card.recipe == "model_store.recipes.digits_tiny_gan"
    assert card.tags == ("gan", "tiny")
