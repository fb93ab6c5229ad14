"""Train a VQ-VAE of digits and the prior over its codes: ``model_store.recipes.digits_vqvae``.

van den Oord et al., 2017, arXiv:1711.00937: a codebook, then an autoregressive prior.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from model_store.architectures.vector_quantized import (
    VectorQuantizedDecoder,
    VectorQuantizedEncoder,
)
from model_store.export.network import Input, NetworkExport
from model_store.export.package import publish
from model_store.recipes import digit_codes
from model_store.recipes.digit_codes import CodesRecipe, Trained
from model_store.recipes.training import arguments
from model_store.recipes.vector_quantization import (
    MovingCodebook,
    start_from_principal_components,
)

SIDE, CODES = 4, 64
COMMON: dict[str, Any] = {"channels": 1, "codes": CODES, "dim": 4, "patch": 2, "width": 32}
ENCODER_CONFIG: dict[str, Any] = {**COMMON, "blocks": 1}
DECODER_CONFIG: dict[str, Any] = {**COMMON, "blocks": 1, "side": SIDE, "fine": 8}
RECIPE = CodesRecipe(
    id="digits-vqvae",
    summary="A VQ-VAE of 8x8 handwritten digits, sixteen codes of 64 an image, with a small causal "
    "transformer as the prior over its codes, told a digit or nothing.",
    levels=[[SIDE, SIDE]],
    names=[""],
    codes=CODES,
    prior={
        "words": [11],
        "lengths": [SIDE * SIDE],
        "codes": CODES,
        "width": 48,
        "depth": 3,
        "heads": 4,
        "dropout": 0.15,
    },
    autoencoder_minutes=1.0,
    tags=("vq-vae",),
    training="First a VQ-VAE (8x8 pixels to 4x4 codes) for a minute.",
)


def train(options: argparse.Namespace) -> Trained:
    """Train the autoencoder, then the transformer."""
    torch.manual_seed(0)
    encoder = VectorQuantizedEncoder(**ENCODER_CONFIG)
    decoder = VectorQuantizedDecoder(**DECODER_CONFIG)
    decoder.codebook = encoder.codebook
    moving = MovingCodebook(encoder.codebook)
    some = digit_codes.images("train", seed=5)
    start_from_principal_components(encoder.features, decoder.painter, some)

    def reconstruct(image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        vectors, commitment = moving.quantize(encoder.features(image), generator)
        return decoder.painter(vectors), commitment

    parts = {"encoder": encoder, "decoder": decoder, "moving": moving}
    digit_codes.train_autoencoder(RECIPE, parts, reconstruct, options)
    prior, summary = digit_codes.train_transformer(RECIPE, encoder, options)
    return Trained(encoder, decoder, prior, summary)


def networks(trained: Trained) -> list[NetworkExport]:
    """The autoencoder's networks and what they take."""
    return [
        NetworkExport(
            name="encoder",
            architecture="vector_quantized_encoder",
            module=trained.encoder,
            inputs={"image": Input(digit_codes.IMAGE, "image")},
            config=ENCODER_CONFIG,
        ),
        NetworkExport(
            name="decoder",
            architecture="vector_quantized_decoder",
            module=trained.decoder,
            inputs={"codes": Input((SIDE * SIDE,), "integer", CODES)},
            config=DECODER_CONFIG,
        ),
    ]


def main() -> None:
    """Train, measure, export and package the model."""
    trained = train(arguments(__doc__ or "", minutes=3))
    publish(digit_codes.package(RECIPE, trained, networks(trained)))


if __name__ == "__main__":
    main()
