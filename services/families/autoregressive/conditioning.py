"""From what a client says to the words that stand in front of an image's codes."""

from __future__ import annotations

import torch

from services.core.errors import InvalidParameter
from services.core.labels import label_index
from services.core.model import Conditioning
from services.core.vocabulary import NULL
from services.families.autoregressive.options import AutoregressiveOptions
from services.families.autoregressive.parameters import Sampled, Told

COMPLETION_STREAM = 0x5CE4E
"""Keeps what is drawn of a scene apart from the codes that the same seed draws."""


class Reader:
    """Words as the transformer is told them: one token for each slot, 0 where nothing is said.

    A model of labels has one slot; a model that is told nothing has one too, always 0, for its
    first code has to be led to by something.

    Attributes:
        kind: of condition, as a model names it.
        slots: tokens in front of an image's codes.
    """

    def __init__(self, model_id: str, options: AutoregressiveOptions) -> None:
        """Read as the manifest says."""
        self._model_id = model_id
        self._vocabulary, self._labels = options.tokenizer, options.labels
        self.slots = len(options.tokenizer.slots) if options.tokenizer else 1
        self.kind: Conditioning = "none"
        if options.tokenizer is not None:
            self.kind = "text"
        elif options.labels is not None:
            self.kind = "label"

    @property
    def nothing(self) -> list[int]:
        """What is told where nothing is said; guidance leads away from it."""
        return [NULL] * self.slots

    def tokens(self, parameters: Told) -> list[int]:
        """What the model is told.

        Raises:
            InvalidParameter: it does not know a word, has no such label, or takes another kind of
                condition.
        """
        if self.kind != "label" and parameters.label is not None:
            raise InvalidParameter(f"{self._model_id} has no labels", param="label")
        if self._vocabulary is not None:
            return self._vocabulary.tokens(self._said(parameters))
        if parameters.prompt or parameters.factors:
            instead = "takes a label, no prompt" if self._labels else "takes no prompt"
            param = "prompt" if parameters.prompt else "factors"
            raise InvalidParameter(f"{self._model_id} {instead}", param=param)
        if self._labels is None or parameters.label is None:
            return self.nothing
        return [1 + label_index(parameters.label, self._labels, model_id=self._model_id)]

    def completed(self, parameters: Sampled, seed: int) -> tuple[list[int], str | None]:
        """The tokens with what words leave open drawn, and the whole caption where one was.

        Drawing what a caption leaves out and then an image of the whole caption is drawing from
        the same distribution, if what is left out is evenly spread.
        """
        words = self._vocabulary
        said = self._said(parameters) if words is not None else {}
        if words is None or words.caption is None or not said or len(said) == len(words.slots):
            return self.tokens(parameters), None
        generator = torch.Generator().manual_seed(seed ^ COMPLETION_STREAM)
        whole = words.completed(said, generator)
        return words.tokens(whole), words.caption.format(**whole)

    def _said(self, parameters: Told) -> dict[str, str]:
        if self._vocabulary is None:
            return {}
        if parameters.factors is not None:
            return self._vocabulary.check(parameters.factors)
        return self._vocabulary.read(parameters.prompt)
