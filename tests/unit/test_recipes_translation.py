"""What image-to-image generators are trained by: drawings, photographs, features, the game."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.translation import PatchDiscriminator
from model_store.evaluation import texture
from model_store.recipes import outlines, photographs, shapes
from model_store.recipes.adversarial import Game, pairing, play

GREY = ("camera", "brick", "grass", "gravel", "coins")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("width", [0.5, 1.0, 3.0])
def test_a_line_is_as_wide_as_its_pen(width: float) -> None:
    """Across an upright edge, the covered parts of the pixels of a row add up to its width."""
    places = (torch.arange(32) + 0.5) * 2 / 32 - 1
    distance = (places - 0.03).expand(1, 32, 32)
    drawn = outlines.line(distance, torch.tensor([width]))
    assert drawn.sum(dim=2).flatten().tolist() == pytest.approx([width] * 32, abs=0.26)
    assert drawn.max() <= min(width, 1)


def test_an_outline_has_the_colors_of_its_shape_and_nothing_inside(
    generator: torch.Generator,
) -> None:
    drawn = outlines.drawings(64, "test", generator)
    color, background = (values[:, :, None, None] for values in shapes.palette(drawn.factors))
    part = (color - background).abs().amax(dim=1, keepdim=True)
    inked = (drawn.outline - background).abs().amax(dim=1, keepdim=True) / part
    covered = (drawn.image - background).abs().amax(dim=1, keepdim=True) / part
    assert inked.flatten(1).max(dim=1).values.min() > 0.3
    solid = functional.avg_pool2d(covered, 7, stride=1, padding=3) > 0.999
    assert solid.any()
    assert inked[solid].max() < 1e-4


def test_drawings_of_a_split_are_of_its_combinations(generator: torch.Generator) -> None:
    drawn = outlines.drawings(50, "test", generator)
    known = {tuple(row) for row in shapes.combinations("test").tolist()}
    assert {tuple(row) for row in drawn.factors.tolist()} <= known


def test_free_colors_can_be_told_apart(generator: torch.Generator) -> None:
    pen, paper = outlines.free_colors(500, generator)
    assert ((pen - paper).abs().amax(dim=1) >= 2 * outlines.LEAST_CONTRAST).all()
    assert pen.abs().max() <= 1
    assert paper.abs().max() <= 1


def test_what_a_bent_line_encloses_is_bent_with_it(generator: torch.Generator) -> None:
    """The line lies where the filling ends, whether it is bent or not."""
    factors = shapes.sample_factors(40, "train", generator)
    moved = outlines.bends(40, generator)
    straight, bent = (
        shapes.signed_distance(factors, torch.Generator().manual_seed(3), moved=how)
        for how in (None, moved)
    )
    assert not torch.equal(straight, bent)
    for distance in (straight, bent):
        border = (shapes.filled(distance) - 0.5).abs() < 0.3
        assert outlines.line(distance, torch.full((40,), 1.5))[border].min() > 0.9


def test_patches_carry_the_place_of_their_photograph(generator: torch.Generator) -> None:
    images, places = photographs.named_patches(60, "train", 24, generator)
    for image, place in zip(images, places.tolist(), strict=True):
        is_grey = bool((image == image[..., :1]).all())
        if photographs.NAMES["train"][place] in GREY:
            assert is_grey


def test_an_image_made_small_keeps_its_mean(generator: torch.Generator) -> None:
    images = photographs.patches(4, "train", 48, generator)
    small = photographs.shrunken(images, 4)
    assert small.shape == (4, 12, 12, 3)
    assert np.abs(small.mean(axis=(1, 2)) - images.mean(axis=(1, 2))).max() < 6


@pytest.mark.skipif(not texture.WEIGHTS.is_file(), reason="the judge of textures is not trained")
def test_blur_is_far_from_a_photograph_and_more_of_it_further() -> None:
    tiles = photographs.tiles("test", 64)[::25]
    real = photographs.to_unit_range(tiles)
    assert texture.texture_distance(real, real).max() < 1e-9
    found = []
    for radius in (0.7, 1.5, 3.0):
        blurred = [Image.fromarray(t).filter(ImageFilter.GaussianBlur(radius)) for t in tiles]
        images = photographs.to_unit_range(np.stack([np.asarray(image) for image in blurred]))
        found.append(float(texture.texture_distance(images, real).mean()))
    assert 0.001 < found[0] < found[1] < found[2]


def test_scores_that_cannot_be_told_apart_pair_at_log_2() -> None:
    scores = torch.full((3, 1, 2, 2), 0.7)
    assert float(pairing(scores, scores)) == pytest.approx(math.log(2))
    assert float(pairing(scores + 3, scores)) < 0.1
    assert float(pairing(scores, scores + 3)) > 3


def test_a_discriminator_scores_patches_and_no_row_sees_another() -> None:
    network = PatchDiscriminator(3, widths=(4, 8, 8)).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    assert together.shape == (3, 1, 8, 8)
    torch.testing.assert_close(together[1:2], alone)


def test_a_game_trains_both_players_and_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a warm-up even a single step, which is all that a busy machine may do, moves weights.
    monkeypatch.setattr("model_store.recipes.adversarial.learning_rate", lambda _, peak: peak)

    def options(minutes: float) -> argparse.Namespace:
        return argparse.Namespace(
            minutes=minutes, workspace=tmp_path, fresh=False, export_only=False
        )

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        source = torch.randn(2, 3, 16, 16, generator=generator)
        return source, -source

    def players() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        return nn.Conv2d(3, 3, 1), PatchDiscriminator(6, widths=(4, 8, 8))

    def weights(*modules: nn.Module) -> list[Tensor]:
        return [next(module.parameters()).detach().clone() for module in modules]

    def plays(minutes: float) -> nn.Module:
        made, critic = players()
        before = weights(made, critic)
        found, summary = play(
            "tiny",
            made,
            critic,
            draw,
            lambda source, image: torch.cat([source, image], dim=1),
            functional.l1_loss,
            options(minutes),
            Game(1e-2, 1e-2, 0.01, decay=0.5),
        )
        assert "steps" in summary
        assert not found.training
        after = weights(made, critic)
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return found

    first = plays(0.002)
    again = plays(0.002)  # its time is spent: what was learned is loaded, and nothing is added
    assert torch.equal(*(next(one.parameters()) for one in (first, again)))
