"""What a client says becomes what the denoiser is told, one row at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from services.core.errors import InvalidNetwork, InvalidParameter
from services.core.network import OpenedModel
from services.families.diffusion.conditioning import conditioner_of
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.steering import Words
from tests.engines import RowByRow, floats, opened

SCHEDULE = {"type": "variance_preserving"}
PROMPT = {"type": "prompt", "inputs": ["encoder_hidden_states"]}
LABEL = {"type": "label", "classes": 3, "null": 3, "labels": ["cat", "dog", "moon"]}


class Letters:
    """A prompt encoder that counts letters, and the prompts that it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, prompt: str, *, negative: bool = False) -> Mapping[str, Tensor]:
        self.asked.append((prompt, negative))
        return {"encoder_hidden_states": torch.tensor([float(prompt.count(c)) for c in "abc"])}


def model(encoder: Letters | None = None) -> OpenedModel:
    found = opened("diffusion", {}, resolution=(4, 4))
    return replace(found, open_prompt_encoder=None if encoder is None else lambda: encoder)


def options(**conditioning: Any) -> DiffusionOptions:
    return DiffusionOptions.model_validate({"schedule": SCHEDULE, "conditioning": conditioning})


def denoiser(**inputs: int | None) -> RowByRow:
    specs = {name: floats() if size is None else floats(size) for name, size in inputs.items()}
    return RowByRow(lambda **_: {}, specs, ["prediction"])


def test_a_prompt_is_encoded_once_and_a_negative_one_apart() -> None:
    encoder = Letters()
    found = conditioner_of(model(encoder), options(**PROMPT))
    found.open(denoiser(encoder_hidden_states=3))
    first = found.condition(Words("abba"), 5.0)
    assert found.condition(Words("abba"), 2.0) == first
    found.condition(Words("abba", param="negative_prompt"), 5.0)
    assert encoder.asked == [("", False), ("abba", False), ("abba", True)]
    assert first["encoder_hidden_states"].tolist() == [2.0, 2.0, 0.0]


def test_a_scale_that_is_an_input_is_told_and_needs_no_branch() -> None:
    found = conditioner_of(model(Letters()), options(**PROMPT, embedded_guidance=True))
    assert not found.branches
    assert found.inputs == ("encoder_hidden_states", "guidance")
    found.open(denoiser(encoder_hidden_states=3, guidance=None))
    assert float(found.condition(Words("a"), 3.5)["guidance"]) == 3.5
    with pytest.raises(InvalidParameter, match="one branch"):
        found.check(Words("ugly", param="negative_prompt"))
    with pytest.raises(InvalidParameter, match="one prompt"):
        found.check(Words("a", param="prompts"))


def test_an_encoder_that_is_no_fit_is_refused() -> None:
    found = conditioner_of(model(Letters()), options(**PROMPT))
    with pytest.raises(InvalidNetwork, match=r"gives 'encoder_hidden_states' of \[3\]"):
        found.open(denoiser(encoder_hidden_states=4))
    with pytest.raises(InvalidNetwork, match="no pipeline"):
        conditioner_of(model(), options(**PROMPT)).open(denoiser(encoder_hidden_states=3))


@pytest.mark.parametrize(("said", "index"), [(None, 3), (0, 0), (2, 2), ("Dog ", 1)])
def test_a_label_is_found_by_name_or_index(said: int | str | None, index: int) -> None:
    found = conditioner_of(model(), options(**LABEL))
    assert found.labels == ("cat", "dog", "moon")
    told = found.condition(Words(label=said), 1.0)["label"]
    assert told.dtype == torch.int64
    assert int(told) == index


@pytest.mark.parametrize(
    ("words", "param"),
    [
        (Words(label=3), "label"),
        (Words(label=-1), "label"),
        (Words(label="cta"), "label"),
        (Words("a cat"), "prompt"),
        (Words("a cat", param="negative_prompt"), "negative_prompt"),
        (Words(factors={"color": "red"}, param="factors"), "factors"),
    ],
)
def test_what_is_no_label_is_refused_by_name(words: Words, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        conditioner_of(model(), options(**LABEL)).check(words)
    assert caught.value.param == param


def test_an_unconditional_model_takes_neither() -> None:
    plain = DiffusionOptions.model_validate({"schedule": SCHEDULE})
    found = conditioner_of(model(), plain)
    assert found.condition(Words(), 1.0) == {}
    for words in (Words("a cat"), Words(label=1)):
        with pytest.raises(InvalidParameter):
            found.check(words)


def test_a_model_is_told_in_one_way() -> None:
    tokenizer = {"slots": {"color": {"values": ["red"]}}}
    with pytest.raises(ValidationError, match="either a tokenizer or conditioning"):
        DiffusionOptions.model_validate(
            {"schedule": SCHEDULE, "conditioning": LABEL, "tokenizer": tokenizer}
        )
