"""What a prompt leaves open is drawn from the seed, and told back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from services.core.network import OpenedModel
from services.core.parameters import Latents
from services.core.vocabulary import Slot, Vocabulary
from services.families.diffusion.conditioning import FactorWords
from services.families.diffusion.steering import Words
from tests.engines import ask, pixels_of, ready, some_pixels
from tests.tiny_models import VOCABULARY, tiny_diffusion

SLOTS = {
    "shape": Slot(values=["circle", "star"]),
    "color": Slot(values=["red", "green", "blue"]),
    "place": Slot(values=["left", "right"]),
}
CAPTION = "a {color} {shape} on the {place}"


def words_of(caption: str | None = CAPTION, **more: Any) -> FactorWords:
    return FactorWords("m", Vocabulary(slots=SLOTS, caption=caption, ignored=["a", "on"], **more))


def test_what_is_said_stays_and_the_rest_is_drawn() -> None:
    whole, caption = words_of().completed(Words("a red star"), seed=5)
    assert whole.factors is not None
    assert {"shape": "star", "color": "red"}.items() <= whole.factors.items()
    assert caption == f"a red star on the {whole.factors['place']}"
    assert words_of().condition(whole, 1.0)["tokens"].min() > 0


def test_the_same_seed_draws_the_same_and_others_draw_all_evenly() -> None:
    found = words_of()
    drawn = [found.completed(Words("star"), seed)[1] for seed in range(600)]
    assert drawn == [found.completed(Words("star"), seed)[1] for seed in range(600)]
    counts = Counter(drawn)
    assert len(counts) == 6
    assert all(70 <= count <= 130 for count in counts.values())


def test_a_value_does_not_depend_on_what_else_was_said() -> None:
    found = words_of()
    for seed in range(20):
        alone, _ = found.completed(Words("star"), seed)
        beside, _ = found.completed(Words("red star"), seed)
        assert alone.factors is not None
        assert beside.factors is not None
        assert alone.factors["place"] == beside.factors["place"]


@pytest.mark.parametrize("prompt", ["", "a", "red star left"])
def test_nothing_and_everything_stay_as_they_are(prompt: str) -> None:
    words = Words(prompt)
    assert words_of().completed(words, seed=1) == (words, None)


def test_without_a_caption_nothing_is_drawn() -> None:
    words = Words("red star")
    assert words_of(caption=None).completed(words, seed=1) == (words, None)


def test_factors_by_name_are_completed_too() -> None:
    whole, caption = words_of().completed(Words(factors={"color": "blue"}), seed=3)
    assert caption is not None
    assert caption.startswith("a blue ")
    assert whole.factors is not None
    assert set(whole.factors) == set(SLOTS)


@pytest.mark.parametrize("caption", ["a {color} {shape}", "{color} {shape} {place} {place}", "x"])
def test_a_caption_that_does_not_name_each_slot_once_is_refused(caption: str) -> None:
    with pytest.raises(ValidationError, match="name each slot once: shape, color, place"):
        words_of(caption=caption)


def test_torch_keeps_its_own_state() -> None:
    before = torch.get_rng_state()
    words_of().completed(Words("star"), seed=1)
    assert torch.equal(before, torch.get_rng_state())


def completing() -> OpenedModel:
    """The tiny text-to-image model with a whole caption."""
    model = tiny_diffusion()
    tokenizer = {**VOCABULARY, "caption": "a {color} {shape}"}
    return replace(model, options={**model.options, "tokenizer": tokenizer})


def test_an_image_of_a_part_is_that_of_the_whole_prompt_which_is_told() -> None:
    engine = ready(completing())
    parts = ask(engine, "generate", n=4, seed=7, prompt="a red")
    for index, part in enumerate(parts):
        whole = part.values["revised_prompt"]
        assert whole in ("a red circle", "a red square")
        (same,) = ask(engine, "generate", seed=7 + index, prompt=whole)
        assert "revised_prompt" not in same.values
        assert np.array_equal(pixels_of([part]), pixels_of([same]))


def test_variations_of_a_seed_show_one_scene() -> None:
    varied = {"variation_seed": 9, "variation_strength": 0.3}
    found = ask(ready(completing()), "generate", n=6, seed=2, prompt="red", **varied)
    assert len({result.values["revised_prompt"] for result in found}) == 1


def test_edits_and_given_latents_leave_open_what_the_prompt_does() -> None:
    engine, plain = ready(completing()), ready(tiny_diffusion())
    image = some_pixels(3, 8, 8)
    latents = Latents.from_array(np.zeros((2, 4, 4), np.float32)).model_dump()
    asks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("variation", {"prompt": "red", "images": [image], "strength": 0.5}),
        ("generate", {"prompt": "red", "latents": latents}),
        ("generate", {"prompts": [{"prompt": "red", "weight": 1.0}]}),
    )
    for name, said in asks:
        completing_ones, plain_ones = ask(engine, name, **said), ask(plain, name, **said)
        assert "revised_prompt" not in completing_ones[0].values
        assert np.array_equal(pixels_of(completing_ones), pixels_of(plain_ones))
