"""Prompts read by the pipeline's own `encode_prompt`, one at a time.

The pipeline is built from its text components alone: no denoiser, no scheduler. One prompt is
encoded by itself, so what it becomes does not depend on what others ask for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from model_store.limits import StoreLimits
from model_store.manifest import Pipeline
from model_store.networks.component_classes import NETWORKS, TOKENIZERS
from model_store.networks.component_files import read_config
from model_store.networks.components import load_network, load_tokenizer
from model_store.reading import Read
from services.core.errors import InvalidManifest, InvalidParameter

Encode = Callable[[Any, str, torch.device], Mapping[str, Tensor]]
Place = Callable[[str, nn.Module], nn.Module]


@dataclass(frozen=True, slots=True)
class Reader:
    """How one kind of pipeline reads prompts.

    Attributes:
        encode: calls the pipeline's `encode_prompt`; tensors of one row, the batch in front.
        components: those that it needs.
        others: what the pipeline's constructor asks for besides.
        tokens: the most tokens of the tokenizers that do not say so themselves.
        optional: components that a pipeline may do without.
        sized_by: the component whose configuration says how wide zeros are in their place.
    """

    encode: Encode
    components: tuple[str, ...]
    others: tuple[str, ...]
    tokens: int | None = None
    optional: tuple[str, ...] = ()
    sized_by: str | None = None


class Sizes:
    """Stands for a component of which no more is looked at than its configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = SimpleNamespace(**config)


class PromptEncoder:
    """Implements `services.core.network.PromptEncoder` for a diffusers pipeline."""

    def __init__(self, pipeline: Any, reader: Reader, device: torch.device) -> None:
        """Take a pipeline of text components, which are on ``device`` already."""
        self._pipeline, self._reader, self._device = pipeline, reader, device
        self._zeros = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))

    @property
    def pipeline(self) -> Any:
        """The pipeline of text components."""
        return self._pipeline

    def __call__(self, prompt: str, *, negative: bool = False) -> dict[str, Tensor]:
        """See `services.core.network.PromptEncoder`.

        An empty negative prompt is all zeros where the pipeline's configuration says so (SDXL).

        Raises:
            InvalidParameter: the prompt is longer than the model reads.
        """
        self._refuse_long(prompt, "negative_prompt" if negative else "prompt")
        with torch.inference_mode():
            found = self._reader.encode(self._pipeline, prompt, self._device)
        rows = {name: _plain(value[0]) for name, value in found.items()}
        if negative and not prompt and self._zeros:
            return {name: torch.zeros_like(value) for name, value in rows.items()}
        return rows

    def _refuse_long(self, prompt: str, param: str) -> None:
        """Refuse what every tokenizer of the pipeline would cut off, rather than drop it."""
        counts = []
        for name in self._reader.components:
            if name not in TOKENIZER_NAMES:
                continue
            tokenizer = getattr(self._pipeline, name)
            if tokenizer is None:
                continue
            limit = tokenizer.model_max_length
            if self._reader.tokens is not None and "T5" in type(tokenizer).__name__:
                limit = self._reader.tokens
            # A token of a textual inversion stands for as many as it has vectors.
            convert = getattr(self._pipeline, "maybe_convert_prompt", lambda text, _: text)
            text = convert(prompt, tokenizer)
            counts.append((limit, len(tokenizer(text, verbose=False).input_ids)))
        if all(found > limit for limit, found in counts):
            limit, found = max(counts)
            raise InvalidParameter(
                f"{param} has {found} tokens; this model reads at most {limit}, with its marks of "
                "beginning and end",
                param=param,
            )


def load_prompt_encoder(
    pipeline: Pipeline, read: Read, limits: StoreLimits, device: torch.device, place: Place
) -> PromptEncoder:
    """Open the text components of a pipeline.

    Args:
        pipeline: what the manifest says of it.
        read: gives the verified bytes of a stored file.
        limits: for its weight files.
        device: where prompts are encoded.
        place: puts a component of some class there, in the precision that it is to have.

    Raises:
        InvalidManifest: the pipeline reads no prompts, or lacks a component for it.
        ModelError: a component cannot be loaded.
    """
    if pipeline.kind not in READERS:
        raise InvalidManifest(
            f"a '{pipeline.kind}' reads no prompts; those that do are {', '.join(READERS)}"
        )
    reader = READERS[pipeline.kind]
    parts = {
        name: _part(name, pipeline, read, limits, place)
        for name in reader.components
        if name in pipeline.components
    }
    absent = [name for name in reader.components if name not in parts]
    missing = [name for name in absent if name not in reader.optional]
    if missing:
        raise InvalidManifest(f"a '{pipeline.kind}' needs {', '.join(missing)} to read prompts")
    others: dict[str, Any] = dict.fromkeys([*reader.others, *absent])
    if absent and reader.sized_by is not None:
        others[reader.sized_by] = _sizes(reader.sized_by, pipeline, read)
    kind = getattr(importlib.import_module("diffusers"), pipeline.kind)
    try:
        built = kind(**parts, **others, **pipeline.settings)
    except (TypeError, ValueError) as error:
        raise InvalidManifest(f"a '{pipeline.kind}' cannot be made of these: {error}") from error
    return PromptEncoder(built, reader, device)


def _part(name: str, pipeline: Pipeline, read: Read, limits: StoreLimits, place: Place) -> Any:
    component = pipeline.components[name]
    if component.kind in TOKENIZERS:
        return load_tokenizer(name, component, read)
    if component.kind in NETWORKS:
        return place(component.kind, load_network(name, component, read, limits))
    raise InvalidManifest(f"component '{name}' cannot be a '{component.kind}'")


def _sizes(name: str, pipeline: Pipeline, read: Read) -> Sizes:
    stored = pipeline.components[name].files["config.json"]
    return Sizes(read_config(f"{name}/config.json", read(stored.file)))


def _plain(value: Tensor) -> Tensor:
    """On the CPU; integers become numbers, which every network takes."""
    return value.detach().float().cpu().clone()


def _stable(pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, Tensor]:
    found = pipeline.encode_prompt(prompt, device, 1, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": found[0]}


def _stable_xl(pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, Tensor]:
    found = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": found[0], "text_embeds": found[2]}


def _stable_3(pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, Tensor]:
    found = pipeline.encode_prompt(
        prompt, None, None, device=device, do_classifier_free_guidance=False
    )
    return {"encoder_hidden_states": found[0], "pooled_projections": found[2]}


def _flux(pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, Tensor]:
    found = pipeline.encode_prompt(prompt, None, device=device)
    return {"encoder_hidden_states": found[0], "pooled_projections": found[1]}


def _pixart(pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, Tensor]:
    found = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": found[0], "encoder_attention_mask": found[1]}


TOKENIZER_NAMES = ("tokenizer", "tokenizer_2", "tokenizer_3")
_ONE = ("tokenizer", "text_encoder")
_TWO = (*_ONE, "tokenizer_2", "text_encoder_2")
_THREE = (*_TWO, "tokenizer_3", "text_encoder_3")

_STABLE = Reader(_stable, _ONE, ("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
_STABLE_XL = Reader(_stable_xl, _TWO, ("vae", "unet", "scheduler"))

READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "StableDiffusionPipeline": _STABLE,
        "StableDiffusionInpaintPipeline": _STABLE,
        "StableDiffusionXLPipeline": _STABLE_XL,
        "StableDiffusionXLInpaintPipeline": _STABLE_XL,
        "StableDiffusion3Pipeline": Reader(
            _stable_3,
            _THREE,
            ("vae", "transformer", "scheduler"),
            tokens=256,
            optional=("tokenizer_3", "text_encoder_3"),
            sized_by="transformer",
        ),
        "FluxPipeline": Reader(_flux, _TWO, ("vae", "transformer", "scheduler"), tokens=512),
        "PixArtAlphaPipeline": Reader(
            _pixart, _ONE, ("vae", "transformer", "scheduler"), tokens=120
        ),
        "PixArtSigmaPipeline": Reader(
            _pixart, _ONE, ("vae", "transformer", "scheduler"), tokens=300
        ),
    }
)
"""By pipeline class; what is not listed reads no prompts."""
