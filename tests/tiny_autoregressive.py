"""A transformer over a few codes, as small as can be, with the autoencoder of its codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model_store.architectures.token_transformer import TokenTransformer
from model_store.architectures.vector_quantized import (
    VectorQuantizedDecoder,
    VectorQuantizedEncoder,
)
from services.core.network import OpenedModel
from tests.engines import RowByRow, floats, integers, opened

VOCABULARY: Mapping[str, Any] = {
    "slots": {
        "color": {"values": ["red", "green", "blue"], "synonyms": {"crimson": "red"}},
        "shape": {"values": ["circle", "square"]},
    },
    "ignored": ["a", "the", "on"],
}
CODES, SIDE, WIDTH, DEPTH = 6, 4, 8, 2
SLOTS = {"text": [4, 3], "label": [4], "none": [1]}
CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "text": {"tokenizer": VOCABULARY},
    "label": {"labels": ["red", "green", "blue"]},
    "none": {},
}


def tiny_transformer(told: str = "text") -> TokenTransformer:
    """Random weights of a seed, far enough from zero that every input counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = TokenTransformer(
            words=SLOTS[told],
            lengths=[SIDE * SIDE],
            codes=CODES,
            width=WIDTH,
            depth=DEPTH,
            heads=2,
        )
        for parameter in network.parameters():
            parameter.data += 0.4 * torch.randn_like(parameter)
    return network.eval()


def tiny_autoencoder() -> tuple[VectorQuantizedEncoder, VectorQuantizedDecoder]:
    """An encoder and a decoder with random weights of a seed, and one codebook."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        common = {"channels": 3, "codes": CODES, "dim": 3, "patch": 2, "width": 8}
        encoder = VectorQuantizedEncoder(**common, blocks=1).eval()
        decoder = VectorQuantizedDecoder(**common, blocks=1, side=SIDE, fine=4).eval()
        decoder.codebook = encoder.codebook
    return encoder, decoder


def tiny_autoregressive(told: str = "text", **options: Any) -> OpenedModel:
    """8 x 8 colour images of 4 x 4 codes; ``told`` is ``text``, ``label`` or ``none``."""
    network = tiny_transformer(told)
    encoder, decoder = tiny_autoencoder()

    def step(token: Tensor, position: Tensor, tokens: Tensor, cache: Tensor) -> dict[str, Tensor]:
        logits, entry = network(token, position, tokens, cache)
        return {"logits": logits, "entry": entry}

    cache = floats(DEPTH, 2, network.positions, WIDTH)
    inputs = {
        "token": integers(),
        "position": integers(),
        "tokens": integers(network.words),
        "cache": cache,
    }
    transformer = RowByRow(step, inputs, ["logits", "entry"])
    transformer.outputs["logits"] = floats(CODES)
    return opened(
        "autoregressive",
        {
            "transformer": transformer,
            "encoder": RowByRow(
                lambda image: {"scores": encoder(image)}, {"image": floats(3, 8, 8)}, ["scores"]
            ),
            "decoder": RowByRow(
                lambda codes: {"image": decoder(codes)}, {"codes": integers(SIDE * SIDE)}, ["image"]
            ),
        },
        resolution=(8, 8),
        channels=3,
        options={
            "codes": CODES,
            "levels": [{"shape": [SIDE, SIDE]}],
            **CONDITIONS[told],
            **options,
        },
    )
