"""A pipeline's prompt encoder with the words and LoRAs that were hung on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from model_store.adapters.embeddings import ENCODERS, Vectors
from model_store.adapters.manifest import AdapterManifest
from model_store.networks.adaptable import deltas_of
from model_store.networks.low_rank import low_rank_rows
from model_store.networks.prompt_encoding import TOKENIZER_NAMES, PromptEncoder
from services.core.adaptation import ScaledLora


class AdaptedPromptEncoder:
    """Implements `services.core.network.AdaptablePromptEncoder`.

    The words that are registered are looked up at each prompt. Whenever they have changed the
    tokenizers are put back as they were and all words are added in the order of their names, so
    that the order in which somebody registered them has no part in an image.
    """

    def __init__(
        self,
        plain: PromptEncoder,
        kind: str,
        registered: Callable[[], Sequence[AdapterManifest]],
        vectors: Callable[[AdapterManifest], Vectors],
    ) -> None:
        """Take an encoder that nobody else uses.

        Args:
            plain: as the model has it.
            kind: of its pipeline.
            registered: the model's textual inversions at this moment, by name.
            vectors: of one of them.
        """
        self._plain, self._pipeline = plain, plain.pipeline
        self._encoders = ENCODERS.get(kind, {})
        self._registered, self._vectors = registered, vectors
        self._pristine: dict[str, Any] = {}
        self._followed = ""

    @property
    def version(self) -> str:
        """Of the registered words."""
        return _version(self._registered())

    def __call__(self, prompt: str, *, negative: bool = False) -> Mapping[str, Tensor]:
        """See `services.core.network.PromptEncoder`."""
        return self.adapted(prompt, (), negative=negative)

    def adapted(
        self, prompt: str, loras: Sequence[ScaledLora], *, negative: bool = False
    ) -> Mapping[str, Tensor]:
        """See `services.core.network.AdaptablePromptEncoder`."""
        self._follow()
        with ExitStack() as stack:
            for name, module in self._pipeline.components.items():
                deltas = deltas_of(loras, name)
                if deltas and isinstance(module, nn.Module):
                    stack.enter_context(low_rank_rows(module, [deltas]))
            return self._plain(prompt, negative=negative)

    def _follow(self) -> None:
        """Know exactly the words that are registered."""
        registered = self._registered()
        version = _version(registered)
        if version == self._followed:
            return
        found = [(manifest.token, self._vectors(manifest)) for manifest in registered]
        self._restore()
        for token, vectors in found:
            for encoder, tokenizer in self._encoders.items():
                self._pipeline.load_textual_inversion(
                    vectors[encoder],
                    token=token,
                    tokenizer=getattr(self._pipeline, tokenizer),
                    text_encoder=getattr(self._pipeline, encoder),
                )
        self._followed = version

    def _restore(self) -> None:
        """Tokenizers as the model has them; the rows of words that are gone are never looked up."""
        self._followed = ""
        for name in TOKENIZER_NAMES:
            tokenizer = getattr(self._pipeline, name, None)
            if tokenizer is None:
                continue
            self._pristine.setdefault(name, tokenizer)
            self._pipeline.register_modules(**{name: deepcopy(self._pristine[name])})


def _version(registered: Sequence[AdapterManifest]) -> str:
    if not registered:
        return ""
    text = "\n".join(f"{manifest.token} {manifest.digest}" for manifest in registered)
    return hashlib.sha256(text.encode()).hexdigest()
