"""From what a client says to what the denoiser is told: words, prompts, labels, or nothing.

A conditioner turns one branch's words into named tensors without a batch dimension. It does so for
each row by itself, so that a row's condition does not depend on its company.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor

from services.core.adaptation import ScaledLora
from services.core.errors import InvalidNetwork, InvalidParameter
from services.core.labels import label_index
from services.core.model import Conditioning
from services.core.network import AdaptablePromptEncoder, Network, OpenedModel, PromptEncoder
from services.core.vocabulary import Vocabulary
from services.families.diffusion.options import DiffusionOptions, FromLabel, FromPrompt
from services.families.diffusion.prompt_cache import PromptCache
from services.families.diffusion.steering import Condition, Words

COMPLETION_STREAM = 0x5CE4E
"""Keeps what is drawn of a scene apart from the noise that the same seed draws."""


class Conditioner(Protocol):
    """How one model is told what an image shows.

    Attributes:
        kind: as the model's description names it.
        inputs: the denoiser's inputs beside the state and the time.
        branches: whether guidance has something to lead away from: two branches that differ.
        labels: names of the model's labels, where it has some.
        continuous: whether a prompt is numbers between which there are others.
    """

    @property
    def kind(self) -> Conditioning:
        """See the class."""
        ...

    @property
    def inputs(self) -> Sequence[str]:
        """See the class."""
        ...

    @property
    def branches(self) -> bool:
        """See the class."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def continuous(self) -> bool:
        """See the class."""
        ...

    def open(self, denoiser: Network) -> None:
        """Open what `condition` needs; called once, before it.

        Raises:
            ModelError: it cannot be opened, or is no fit for the denoiser.
        """
        ...

    def check(self, words: Words) -> None:
        """Refuse what the model cannot be told, from any thread and before `open`.

        Raises:
            InvalidParameter: says what it can be told.
        """
        ...

    def counts(self) -> Mapping[str, int]:
        """Running totals that are worth a series; see `Engine.counts`."""
        ...

    def completed(self, words: Words, seed: int) -> tuple[Words, str | None]:
        """Words with what they leave open drawn, where the model has a whole caption for a scene.

        Drawing what a caption leaves out and then an image of the whole caption is drawing from
        the same distribution, if what is left out is evenly spread; and small networks know whole
        captions best.

        Returns:
            The words and the whole caption; the words as they are and ``None`` where nothing was
            drawn.
        """
        ...

    def condition(self, words: Words, scale: float, loras: Sequence[ScaledLora] = ()) -> Condition:
        """The tensors for one branch of one row.

        Args:
            words: what was said.
            scale: the guidance scale, for networks that take it as an input.
            loras: in force; those that change how prompts are read take part in reading.

        Raises:
            InvalidParameter: the model cannot read it.
        """
        ...


class _Closed:
    """What most conditioners have in common: nothing to open, no labels, two branches."""

    kind: Conditioning = "text"
    inputs: Sequence[str] = ()
    branches = True
    labels: tuple[str, ...] = ()
    continuous = False

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id

    def open(self, denoiser: Network) -> None:
        """Nothing to open."""

    def counts(self) -> Mapping[str, int]:
        """Nothing to count."""
        return {}

    def completed(self, words: Words, seed: int) -> tuple[Words, str | None]:  # noqa: ARG002
        """Nothing to draw."""
        return words, None

    def refuse_label(self, words: Words) -> None:
        """Refuse a label; raises `InvalidParameter`."""
        if words.label is not None:
            raise InvalidParameter(f"{self.model_id} has no labels", param="label")

    def refuse_prompt(self, words: Words, instead: str) -> None:
        """Refuse a prompt of any kind; raises `InvalidParameter`."""
        if words.prompt or words.factors or words.param == "prompts":
            raise InvalidParameter(f"{self.model_id} {instead}", param=words.param)


class Unconditional(_Closed):
    """A model that is told nothing."""

    kind: Conditioning = "none"
    branches = False

    def check(self, words: Words) -> None:
        """See `Conditioner.check`."""
        self.refuse_label(words)
        self.refuse_prompt(words, "is unconditional and takes no prompt")

    def condition(
        self,
        words: Words,
        scale: float,  # noqa: ARG002 - see Conditioner
        loras: Sequence[ScaledLora] = (),  # noqa: ARG002 - see Conditioner
    ) -> Condition:
        """No tensors."""
        self.check(words)
        return {}


class FactorWords(_Closed):
    """A vocabulary of named factors; see `Vocabulary`."""

    inputs: Sequence[str] = ("tokens",)

    def __init__(self, model_id: str, vocabulary: Vocabulary) -> None:
        super().__init__(model_id)
        self._vocabulary = vocabulary

    def check(self, words: Words) -> None:
        """See `Conditioner.check`."""
        self._tokens(words)

    def condition(
        self,
        words: Words,
        scale: float,  # noqa: ARG002 - see Conditioner
        loras: Sequence[ScaledLora] = (),  # noqa: ARG002 - see Conditioner
    ) -> Condition:
        """One token per factor."""
        return {"tokens": torch.tensor(self._tokens(words))}

    def completed(self, words: Words, seed: int) -> tuple[Words, str | None]:
        """See `Conditioner.completed`; words that say nothing ask for anything, and stay so."""
        said = self._said(words)
        caption, slots = self._vocabulary.caption, self._vocabulary.slots
        if caption is None or not said or len(said) == len(slots):
            return words, None
        generator = torch.Generator().manual_seed(seed ^ COMPLETION_STREAM)
        whole = self._vocabulary.completed(said, generator)
        return replace(words, prompt="", factors=whole), caption.format(**whole)

    def _tokens(self, words: Words) -> list[int]:
        self.refuse_label(words)
        return self._vocabulary.tokens(self._said(words))

    def _said(self, words: Words) -> dict[str, str]:
        if words.factors is not None:
            return self._vocabulary.check(words.factors)
        return self._vocabulary.read(words.prompt, param=words.param)


class Prompts(_Closed):
    """A model's own prompt encoder, run once for a prompt that is still remembered."""

    continuous = True

    def __init__(self, model: OpenedModel, options: FromPrompt) -> None:
        super().__init__(model.id)
        self._model, self._embedded = model, options.embedded_guidance
        self.inputs = (*options.inputs, *(["guidance"] if self._embedded else []))
        self.branches = not self._embedded and options.unguided_branch
        self._encoder: PromptEncoder | None = None
        self.cache = PromptCache()

    def open(self, denoiser: Network) -> None:
        """See `Conditioner.open`; the empty prompt shows whether both fit."""
        self._encoder = self._model.prompt_encoder()
        for name, value in self.condition(Words(), 1.0).items():
            wanted = denoiser.inputs[name].shape
            if tuple(value.shape) != wanted:
                raise InvalidNetwork(
                    f"a prompt of '{self.model_id}' gives '{name}' of {list(value.shape)}; its "
                    f"denoiser takes {list(wanted)}"
                )

    def check(self, words: Words) -> None:
        """See `Conditioner.check`; how long a prompt is, its encoder alone can tell."""
        self.refuse_label(words)
        if words.factors is not None:
            raise InvalidParameter(
                f"{self.model_id} reads a prompt in free words; it has no factors", param="factors"
            )
        further = words.param == "prompts" or (words.param == "negative_prompt" and words.prompt)
        if further and not self.branches:
            raise InvalidParameter(
                f"{self.model_id} was distilled to one branch: it takes one prompt, and none to "
                "lead away from",
                param=words.param,
            )

    def counts(self) -> Mapping[str, int]:
        """Look-ups of prompts that were remembered, and of those that were not."""
        return {"prompt_cache_hits": self.cache.hits, "prompt_cache_misses": self.cache.misses}

    def condition(self, words: Words, scale: float, loras: Sequence[ScaledLora] = ()) -> Condition:
        """What the prompt encoder makes of it, and the scale where the network takes it."""
        self.check(words)
        prompt, negative = words.prompt, words.param == "negative_prompt"
        heard = [lora for lora in loras if lora.lora.changes_prompts]
        key = (self.model_id, prompt, negative, self._version(), *(lora.key for lora in heard))
        told = self.cache.get(key, lambda: self._encoded(prompt, negative, heard))
        if self._embedded:
            return {**told, "guidance": torch.tensor(scale, dtype=torch.float32)}
        return told

    def _version(self) -> str:
        """Of the words that were added to the model's own, where it has adapters."""
        adaptable = self._model.adapters is not None and self._encoder is not None
        return cast(AdaptablePromptEncoder, self._encoder).version if adaptable else ""

    def _encoded(self, prompt: str, negative: bool, loras: Sequence[ScaledLora]) -> Condition:
        if self._encoder is None:
            raise InvalidNetwork(f"the prompt encoder of '{self.model_id}' is not open")
        if not loras:
            return self._encoder(prompt, negative=negative)
        encoder = cast(AdaptablePromptEncoder, self._encoder)
        return encoder.adapted(prompt, loras, negative=negative)


class Labels(_Closed):
    """A class label; no label is a class of its own, which guidance leads away from."""

    kind: Conditioning = "label"
    inputs: Sequence[str] = ("label",)

    def __init__(self, model_id: str, options: FromLabel) -> None:
        super().__init__(model_id)
        self._options = options
        self.labels = tuple(options.labels)

    def check(self, words: Words) -> None:
        """See `Conditioner.check`."""
        self._index(words)

    def condition(
        self,
        words: Words,
        scale: float,  # noqa: ARG002 - see Conditioner
        loras: Sequence[ScaledLora] = (),  # noqa: ARG002 - see Conditioner
    ) -> Condition:
        """The label's index."""
        index: Tensor = torch.tensor(self._index(words), dtype=torch.int64)
        return {"label": index}

    def _index(self, words: Words) -> int:
        self.refuse_prompt(words, "takes a label, no prompt")
        if words.label is None:
            return self._options.null
        return label_index(
            words.label, self.labels, model_id=self.model_id, classes=self._options.classes
        )


def conditioner_of(model: OpenedModel, options: DiffusionOptions) -> Conditioner:
    """The conditioner that a manifest's options ask for."""
    if options.tokenizer is not None:
        return FactorWords(model.id, options.tokenizer)
    if isinstance(options.conditioning, FromPrompt):
        return Prompts(model, options.conditioning)
    if isinstance(options.conditioning, FromLabel):
        return Labels(model.id, options.conditioning)
    return Unconditional(model.id)
