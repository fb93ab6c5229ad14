from __future__ import annotations

import pytest
import torch

from model_store.architectures.stylegan2 import StyleMapping
from model_store.recipes.stylegan2_directions import (
    Contrast,
    Direction,
    Effect,
    Latents,
    components,
    edited,
    find,
    holding,
    normal,
    orthogonal,
)
from model_store.recipes.stylegan2_drawing import STYLE, Generator, halved
from model_store.recipes.stylegan2_games import LATENT, Player, r1, unstandardize
from model_store.recipes.stylegan2_quality import mixed

LAYERS = 3
SIZE = Contrast("size", "size", low=(0,), high=(2,))
DOWN = Contrast("down", "vertical", low=(0,), high=(2,))


def thirds(values):
    """0, 1 or 2: below -0.5, between, above 0.5."""
    return (values > -0.5).long() + (values > 0.5).long()


def draw(w):
    """Size follows w_0 of layer 0, place w_1 + w_0 / 2 of layer 2; nothing else changes."""
    factors = torch.zeros(len(w), 6, dtype=torch.long)
    factors[:, 3] = thirds(w[:, 0, 0])
    factors[:, 4] = thirds(w[:, 2, 1] + 0.5 * w[:, 2, 0])
    return factors


@pytest.fixture(scope="module")
def latents():
    w = torch.randn(1200, 4, generator=torch.Generator().manual_seed(0))
    return Latents(w, draw(w[:, None].expand(-1, LAYERS, -1)), LAYERS, draw)


def test_the_plane_between_two_groups_is_found():
    w = torch.randn(1000, 5, generator=torch.Generator().manual_seed(1))
    truth = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0]) / 5
    found, accuracy = normal(w, w @ truth > 0)
    assert float(found @ truth) > 0.99
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-5)
    assert accuracy > 0.95


def test_groups_without_a_difference_have_an_accuracy_of_chance():
    generator = torch.Generator().manual_seed(2)
    _, accuracy = normal(
        torch.randn(1000, 5, generator=generator), torch.rand(1000, generator=generator) > 0.5
    )
    assert 0.35 < accuracy < 0.65


def test_a_group_of_nobody_is_refused():
    with pytest.raises(ValueError, match="fewer than 10"):
        normal(torch.randn(100, 3), torch.zeros(100, dtype=torch.bool))


def test_an_orthogonal_direction_has_nothing_of_the_others():
    generator = torch.Generator().manual_seed(3)
    vector, *others = (torch.randn(6, generator=generator) for _ in range(3))
    rest = orthogonal(vector / vector.norm(), others)
    assert float(rest.norm()) == pytest.approx(1.0, abs=1e-5)
    for other in others:
        assert float(rest @ other) == pytest.approx(0.0, abs=1e-5)


def test_a_direction_within_the_others_has_no_rest():
    with pytest.raises(ValueError, match="span"):
        orthogonal(torch.tensor([1.0, 0.0]), [torch.tensor([2.0, 0.0])])


def test_edits_are_made_orthogonal_or_kept_to_layers_until_they_change_one_thing(latents):
    found = find([SIZE, DOWN], latents, ranges=(None, (0, 0), (1, 2)))
    assert [direction.name for direction in found] == ["size", "down"]
    for direction in found:
        assert direction.effect is not None
        assert direction.effect.worst > 0.9
        assert direction.source == "svm"
    assert holding(found) == found


def test_an_entangled_direction_is_not_offered(latents):
    entangled = Direction("size", torch.tensor([0.6, 0.8, 0.0, 0.0]), 2.5, None, "svm")
    effect = latents.effect(entangled, SIZE, held_out=True)
    assert effect.kept["vertical"] < 0.8
    assert holding([Direction("size", entangled.vector, 2.5, None, "svm", 0.9, effect)]) == []


def test_an_effect_is_as_good_as_its_worst_share():
    assert Effect(0.9, {"shape": 0.95, "color": 0.7}).worst == 0.7


def test_an_edit_moves_the_asked_layers_alone():
    w = torch.zeros(2, 4, 3)
    moved = edited(w, torch.tensor([0.0, 1.0, 0.0]), 2.0, (1, 2))
    assert moved[:, 1:3, 1].eq(2.0).all()
    assert moved.sum() == 2 * 2 * 2.0
    assert edited(w, torch.tensor([1.0, 0.0, 0.0]), 1.0, None).sum() == 2 * 4


def test_components_are_the_axes_of_a_stretched_cloud():
    w = torch.randn(4000, 4, generator=torch.Generator().manual_seed(4))
    w = w * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 7.0
    found = components(w, count=2)
    assert [d.name for d in found] == ["pca_1", "pca_2"]
    assert abs(float(found[0].vector[1])) > 0.99
    assert abs(float(found[1].vector[3])) > 0.99
    assert found[0].unit == pytest.approx(5.0, rel=0.1)


def test_a_direction_is_described_as_the_manifest_has_it():
    options = Direction("size", torch.tensor([0.6, 0.8]), 1.5, (0, 0), "svm", 0.97).options()
    assert options == {
        "name": "size",
        "space": "w",
        "direction": pytest.approx([0.6, 0.8]),
        "unit": 1.5,
        "layers": [0, 0],
        "source": "svm",
        "accuracy": 0.97,
    }


def test_the_mapping_takes_over_the_moments_of_the_latents():
    torch.manual_seed(5)
    mapping = StyleMapping(LATENT, STYLE, width=16)
    z = torch.randn(8, LATENT)
    mean, std = torch.randn(STYLE), torch.rand(STYLE) + 0.5
    with torch.no_grad():
        expected = mapping(z) * std + mean
        unstandardize(mapping, mean, std)
        torch.testing.assert_close(mapping(z), expected, rtol=1e-4, atol=1e-5)


def test_mixed_rows_take_their_late_layers_from_a_neighbour():
    w = torch.tensor([[1.0], [2.0]])
    assert mixed(w, layers=3, cut=2).squeeze(2).tolist() == [[1.0, 1.0, 2.0], [2.0, 2.0, 1.0]]


def test_mixing_regularisation_uses_no_third_latent():
    torch.manual_seed(6)
    player = Player(StyleMapping(LATENT, STYLE, width=16), Generator(16))
    z = torch.randn(64, LATENT)
    with torch.no_grad():
        own = player.mapping(z)
        w = player.latents(z, torch.Generator().manual_seed(0))
    first = (w == own[:, None]).all(dim=2)
    second = (w == own.roll(1, dims=0)[:, None]).all(dim=2)
    assert (first ^ second).all()
    assert first[:, 0].all()
    assert 0.2 < float(first.all(dim=1).float().mean()) < 0.8


def test_the_halved_generator_learns_for_the_whole_one():
    torch.manual_seed(7)
    generator = Generator()
    small = halved(generator)
    w = torch.randn(2, STYLE)
    assert small(w).shape == (2, 3, 32, 32)
    small(w).square().sum().backward()
    assert all(
        parameter.grad is not None
        for name, parameter in generator.named_parameters()
        if "noise" not in name
    )


def test_r1_is_the_squared_gradient():
    images = torch.randn(3, 1, 2, 2)
    scores = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
    expected = scores[1].weight.square().sum()
    torch.testing.assert_close(r1(scores, images), expected)
