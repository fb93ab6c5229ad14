"""Train a VQ-VAE-2 of digits and both levels' priors: ``model_store.recipes.digits_vqvae2``.

Razavi et al., 2019, arXiv:1906.00446. The prior of the coarse codes, and that of the fine codes
given them, are one causal transformer that writes the coarse codes first.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from model_store.architectures.two_level_codes import TwoLevelDecoder, TwoLevelEncoder
from model_store.export.network import Input, NetworkExport
from model_store.export.package import publish
from model_store.recipes import digit_codes
from model_store.recipes.digit_codes import CodesRecipe, Trained
from model_store.recipes.training import arguments
from model_store.recipes.vector_quantization import MovingCodebook

SIDE, CODES = 2, 64
LENGTHS = [SIDE * SIDE, 4 * SIDE * SIDE]
COMMON: dict[str, Any] = {
    "channels": 1,
    "side": SIDE,
    "codes": CODES,
    "dim": 8,
    "patch": 2,
    "width": 32,
    "blocks": 1,
}
ENCODER_CONFIG: dict[str, Any] = COMMON
DECODER_CONFIG: dict[str, Any] = {**COMMON, "fine": 8}
RECIPE = CodesRecipe(
    id="digits-vqvae2",
    summary="A VQ-VAE-2 of 8x8 handwritten digits: four coarse codes of 64, then sixteen fine "
    "ones, with a causal transformer as the prior of the coarse codes and of the fine ones given "
    "them, told a digit or nothing.",
    levels=[[SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
    names=["coarse", "fine"],
    codes=CODES,
    prior={
        "words": [11],
        "lengths": LENGTHS,
        "codes": CODES,
        "width": 48,
        "depth": 3,
        "heads": 4,
        "dropout": 0.15,
    },
    autoencoder_minutes=2.0,
    tags=("vq-vae-2",),
    training="First a VQ-VAE of two levels (8x8 pixels to 2x2 and 4x4 codes, the fine ones given "
    "the coarse) for two minutes.",
    limits=(
        "One transformer writes the coarse codes and then the fine ones: the levels' priors share "
        "their weights. A likelihood's terms tell them apart.",
    ),
)


def train(options: argparse.Namespace) -> Trained:
    """Train the autoencoder, then the transformer."""
    torch.manual_seed(0)
    encoder, decoder = TwoLevelEncoder(**ENCODER_CONFIG), TwoLevelDecoder(**DECODER_CONFIG)
    decoder.top_codebook = encoder.top_codebook
    decoder.bottom_codebook = encoder.bottom_codebook
    top, bottom = MovingCodebook(encoder.top_codebook), MovingCodebook(encoder.bottom_codebook)

    def reconstruct(image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        coarse, first = top.quantize(encoder.features.top(image), generator)
        fine, second = bottom.quantize(encoder.features.bottom(image, coarse), generator)
        return decoder.paint(coarse, fine), first + second

    parts = {"encoder": encoder, "decoder": decoder, "top": top, "bottom": bottom}
    digit_codes.train_autoencoder(RECIPE, parts, reconstruct, options)
    prior, summary = digit_codes.train_transformer(RECIPE, encoder, options)
    return Trained(encoder, decoder, prior, summary)


def networks(trained: Trained) -> list[NetworkExport]:
    """The autoencoder's networks and what they take."""
    return [
        NetworkExport(
            name="encoder",
            architecture="two_level_encoder",
            module=trained.encoder,
            inputs={"image": Input(digit_codes.IMAGE, "image")},
            config=ENCODER_CONFIG,
        ),
        NetworkExport(
            name="decoder",
            architecture="two_level_decoder",
            module=trained.decoder,
            inputs={"codes": Input((sum(LENGTHS),), "integer", CODES)},
            config=DECODER_CONFIG,
        ),
    ]


def main() -> None:
    """Train, measure, export and package the model."""
    trained = train(arguments(__doc__ or "", minutes=3))
    publish(digit_codes.package(RECIPE, trained, networks(trained)))


if __name__ == "__main__":
    main()
