"""Textual inversion: new words with vectors of their own (Gal et al., 2022), checked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor

from model_store.adapters.lora import load_tensors
from model_store.adapters.manifest import AdapterManifest
from model_store.limits import StoreLimits
from model_store.manifest import Pipeline
from model_store.networks.components import load_tokenizer
from services.core.errors import InvalidNetwork

MAX_VECTORS = 64
UNNAMED = "emb_params"
"""What AUTOMATIC1111's files call a tensor whose word is the file's name."""

ENCODERS: Mapping[str, Mapping[str, str]] = {
    "StableDiffusionPipeline": {"text_encoder": "tokenizer"},
    "StableDiffusionInpaintPipeline": {"text_encoder": "tokenizer"},
    "StableDiffusionXLPipeline": {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    "StableDiffusionXLInpaintPipeline": {
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
    },
}
"""Text encoders that a new word is given to, with their tokenizers, by the kind of pipeline."""

_CLIP = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}

Vectors = dict[str, Tensor]
"""``[n, width]`` by text encoder."""


def is_embedding(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors look like those of a textual inversion."""
    if any("lora" in key for key in tensors):
        return False
    vectors = all(tensor.dim() in (1, 2) for tensor in tensors.values())
    return vectors and (len(tensors) == 1 or set(tensors) == set(_CLIP))


def read_embedding(
    name: str, data: bytes, pipeline: Pipeline, read: Callable[[str], bytes], limits: StoreLimits
) -> tuple[Vectors, str | None]:
    """The vectors of a file by text encoder, and the word that it names itself by, if it does.

    Args:
        name: what to call the file in an error.
        data: its bytes.
        pipeline: of the model that it is for.
        read: gives the verified bytes of the model's files.
        limits: on the file.

    Raises:
        InvalidNetwork: it does not fit the model's text encoders, or is not finite.
    """
    tensors = load_tensors(name, data, limits)
    wanted = ENCODERS.get(pipeline.kind)
    if wanted is None:
        raise InvalidNetwork(
            f"a '{pipeline.kind}' takes no textual inversion; those that do are "
            f"{', '.join(ENCODERS)}"
        )
    own = [key for key in tensors if key not in _CLIP]
    given = {_CLIP.get(key, "text_encoder"): key for key in tensors}
    if len(given) != len(tensors) or given.keys() != wanted.keys():
        keys = [key for key, encoder in _CLIP.items() if encoder in wanted]
        needed = "one tensor under its word" if len(wanted) == 1 else " and ".join(keys)
        raise InvalidNetwork(
            f"'{name}' has {', '.join(list(tensors)[:4])}; for a '{pipeline.kind}' it needs "
            f"{needed}"
        )
    vectors = {
        encoder: _vectors(
            tensors[key], f"'{name}': key '{key[:128]}'", _width(pipeline, encoder, read)
        )
        for encoder, key in given.items()
    }
    counts = {len(value) for value in vectors.values()}
    if len(counts) != 1:
        raise InvalidNetwork(f"'{name}' has {sorted(counts)} vectors; both must have as many")
    return vectors, next((key for key in own if key != UNNAMED), None)


def words_of(token: str, count: int) -> list[str]:
    """What diffusers adds to a tokenizer for a word of that many vectors."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def refuse_known(
    token: str,
    count: int,
    pipeline: Pipeline,
    read: Callable[[str], bytes],
    others: Sequence[AdapterManifest],
) -> None:
    """Refuse a word that the model, or another of its textual inversions, has already.

    Raises:
        InvalidNetwork: says which.
    """
    words = set(words_of(token, count))
    for other in others:
        if other.token is None:
            continue
        taken = words & set(words_of(other.token, int(str(other.details.get("vectors", 1)))))
        if taken:
            raise InvalidNetwork(
                f"'{min(taken)}' is a word of '{other.id}' already; choose another with --token"
            )
    for tokenizer in ENCODERS[pipeline.kind].values():
        known = load_tokenizer(tokenizer, pipeline.components[tokenizer], read).get_vocab()
        if words & known.keys():
            raise InvalidNetwork(
                f"'{min(words & known.keys())}' is in the model's own vocabulary; choose another "
                "with --token, such as <my-word>"
            )


def packed(vectors: Vectors) -> bytes:
    """Checked vectors as the file that is kept."""
    return safetensors.torch.save({name: value.contiguous() for name, value in vectors.items()})


def _vectors(tensor: Tensor, key: str, width: int) -> Tensor:
    found = tensor[None] if tensor.dim() == 1 else tensor
    if found.dim() != 2 or found.shape[1] != width or not 1 <= len(found) <= MAX_VECTORS:
        raise InvalidNetwork(
            f"{key} has shape {list(tensor.shape)}; the model's text encoder takes [n, {width}] "
            f"with n up to {MAX_VECTORS}"
        )
    if not found.is_floating_point() or not bool(torch.isfinite(found).all()):
        raise InvalidNetwork(f"{key} holds values that are not finite numbers")
    return found.float()


def _width(pipeline: Pipeline, encoder: str, read: Callable[[str], bytes]) -> int:
    config = json.loads(read(pipeline.components[encoder].files["config.json"].file))
    return int(config["hidden_size"])
