"""Reading a prompt that describes a scene by named factors.

A vocabulary assigns words to slots (``color``, ``shape``, ...). Any order of words is understood,
any slot may stay open, filler words are passed over, and what is not in the vocabulary is refused
by name rather than silently dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.core.errors import InvalidParameter
from services.core.validation import near

NULL = 0
SHOWN_WORD = 30

_WORD = re.compile(r"[^\W_]+")


class Slot(BaseModel):
    """One factor: its values in the order of the network's token ids, and other words for them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: Annotated[list[str], Field(min_length=1)]
    synonyms: dict[str, str] = {}


class Vocabulary(BaseModel):
    """The words of a model's prompts.

    ``implies``: a word that also sets another slot when nothing else does, as ``center`` alone
    means the middle of both axes. ``caption``: the sentence that says everything, with the slots'
    names in braces; with one, what a prompt leaves open can be drawn and told back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: dict[str, Slot]
    ignored: list[str] = []
    implies: dict[str, dict[str, str]] = {}
    caption: str | None = None

    @model_validator(mode="after")
    def _caption_says_everything(self) -> Self:
        if self.caption is not None:
            named = [name for _, name, _, _ in Formatter().parse(self.caption) if name is not None]
            if sorted(named) != sorted(self.slots):
                raise ValueError(f"the caption must name each slot once: {', '.join(self.slots)}")
        return self

    def completed(self, factors: Mapping[str, str], generator: torch.Generator) -> dict[str, str]:
        """Factors with every open slot drawn evenly among its values, slots in order."""
        drawn = {
            name: slot.values[int(torch.randint(len(slot.values), (), generator=generator))]
            for name, slot in self.slots.items()
        }
        return {**drawn, **factors}

    def read(self, prompt: str, *, param: str = "prompt") -> dict[str, str]:
        """The factors that a prompt names.

        Raises:
            InvalidParameter: a word is unknown, or two words claim one slot.
        """
        found: dict[str, str] = {}
        spoken: list[str] = []
        for word in _WORD.findall(prompt.casefold()):
            claim = self._claim(word)
            if claim is None:
                if word not in self.ignored:
                    raise self._unknown(word, param)
                continue
            slot, value = claim
            spoken.append(value)
            if found.setdefault(slot, value) != value:
                raise InvalidParameter(
                    f"the prompt asks for two values of {slot}: {found[slot]} and {value}",
                    param=param,
                )
        for value in spoken:
            for slot, implied in self.implies.get(value, {}).items():
                found.setdefault(slot, implied)
        return found

    def check(self, factors: Mapping[str, str]) -> dict[str, str]:
        """Factors given by name, with synonyms resolved.

        Raises:
            InvalidParameter: an unknown slot or value; names the known ones.
        """
        found = {}
        for slot, word in factors.items():
            if slot not in self.slots:
                raise InvalidParameter(
                    f"unknown factor '{slot[:SHOWN_WORD]}'; known are {', '.join(self.slots)}",
                    param="factors",
                )
            values = self.slots[slot].values
            value = self.slots[slot].synonyms.get(word.casefold(), word.casefold())
            if value not in values:
                raise InvalidParameter(
                    f"'{word[:SHOWN_WORD]}' is no {slot}; known are {', '.join(values)}",
                    param="factors",
                )
            found[slot] = value
        return found

    def tokens(self, factors: Mapping[str, str]) -> list[int]:
        """One token per slot, in order: 0 where a slot is open, else 1 + the value's index."""
        return [
            1 + slot.values.index(factors[name]) if name in factors else NULL
            for name, slot in self.slots.items()
        ]

    def _claim(self, word: str) -> tuple[str, str] | None:
        for form in (word, word.removesuffix("s")):
            for name, slot in self.slots.items():
                value = slot.synonyms.get(form, form)
                if value in slot.values:
                    return name, value
        return None

    def _unknown(self, word: str, param: str) -> InvalidParameter:
        words = [v for slot in self.slots.values() for v in (*slot.values, *slot.synonyms)]
        offers = near(word, words)
        hint = f"; did you mean {' or '.join(offers)}?" if offers else ""
        known = "; ".join(f"{n}: {', '.join(s.values)}" for n, s in self.slots.items())
        return InvalidParameter(
            f"the model does not know the word '{word[:SHOWN_WORD]}'{hint} It knows {known}",
            param=param,
        )
