from __future__ import annotations

import pytest
import torch

from model_store.recipes import shapes, shapes_vocabulary

ALL = torch.cat([shapes.combinations(split) for split in ("train", "validation", "test")])


def test_splits_cover_every_combination_once():
    combinations = {tuple(row) for row in ALL.tolist()}
    assert len(ALL) == len(combinations) == 6 * 8 * 4 * 3 * 3 * 3


def test_one_combination_in_ten_is_never_trained_on():
    assert len(shapes.combinations("test")) / len(ALL) == pytest.approx(0.1, abs=0.015)


def test_every_value_is_trained_on():
    train = shapes.combinations("train")
    for i, values in enumerate(shapes.FACTORS.values()):
        assert len(train[:, i].unique()) == len(values)


def test_an_image_is_a_pure_function_of_its_factors_and_generator():
    factors = shapes.combinations("test")[:16]
    first = shapes.render(factors, torch.Generator().manual_seed(1))
    again = shapes.render(factors, torch.Generator().manual_seed(1))
    other = shapes.render(factors, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("resolution", [32, 64])
def test_images_have_their_colors_and_range(resolution):
    factors = shapes.combinations("train")[::97]
    images = shapes.render(factors, torch.Generator().manual_seed(3), resolution=resolution)
    assert images.shape == (len(factors), 3, resolution, resolution)
    assert images.abs().max() <= 1
    backgrounds = torch.tensor(list(shapes.BACKGROUNDS.values())) / 127.5 - 1
    torch.testing.assert_close(images[:, :, 0, 0], backgrounds[factors[:, 2]])
    colors = torch.tensor(list(shapes.COLORS.values())) / 127.5 - 1
    distance = (images - colors[factors[:, 1]][:, :, None, None]).abs().amax(dim=1)
    assert (distance.flatten(1).amin(dim=1) < 1e-5).all()


def test_a_caption_names_every_factor():
    assert shapes.caption([5, 0, 1, 2, 0, 0]) == "a large red star at the top left on black"


def test_no_word_of_the_vocabulary_means_two_things():
    tokenizer = shapes_vocabulary.tokenizer()
    words = list(tokenizer["ignored"])
    for slot in tokenizer["slots"].values():
        assert set(slot["synonyms"].values()) <= set(slot["values"])
        words += [*slot["values"], *slot["synonyms"]]
    assert len(words) == len(set(words))
