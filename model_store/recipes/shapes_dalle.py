"""Train the text-to-image transformer over codes: ``python -m model_store.recipes.shapes_dalle``.

DALL-E in small (Ramesh et al., 2021, arXiv:2102.12092): a causal transformer over six words and the
8x8 codes of `shapes_vqvae`, which is trained first when its checkpoint is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_store.architectures.token_transformer import TokenTransformer
from model_store.evaluation import judge
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.evaluation.reference import quantiles
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import shapes, shapes_vocabulary, shapes_vqvae
from model_store.recipes.code_priors import draw_codes, log_likelihood, train_prior
from model_store.recipes.early_stopping import Settings
from model_store.recipes.shapes_ldm import PARTIAL_CAPTIONS, drop_words
from model_store.recipes.shapes_vqvae import CODES, SIDE, DiscreteAutoencoder
from model_store.recipes.training import arguments
from model_store.recipes.vector_quantization import codebook_use, decoded, encoded

BATCH = 64
POOL = 40_000
LENGTH = SIDE * SIDE
MINUTES = 20.0
CONFIG: dict[str, Any] = {
    "words": [len(values) + 1 for values in shapes.FACTORS.values()],
    "lengths": [LENGTH],
    "codes": CODES,
    "width": 96,
    "depth": 3,
    "heads": 4,
}
SETTINGS = Settings(2e-3, 100, weight_decay=1e-2, betas=(0.9, 0.98), decay=0.995)
MEASURED = 512
CHOSEN_ON = 128
CANDIDATES: tuple[dict[str, Any], ...] = tuple(
    {"temperature": temperature, "top_k": 0, "top_p": top_p, "guidance_scale": scale}
    for temperature, top_p in ((1.0, 1.0), (1.0, 0.9))
    for scale in (1.0, 2.0, 3.0)
)
"""Default settings to choose from."""


class TextToImage(NamedTuple):
    """A trained transformer over codes."""

    autoencoder: DiscreteAutoencoder
    transformer: TokenTransformer
    summary: str


def code_pool(autoencoder: DiscreteAutoencoder, count: int) -> tuple[Tensor, Tensor]:
    """Codes ``[count, 64]`` of training images, and their factors ``[count, 6]``."""
    codes, factors = [], []
    for images, said in shapes.pool(count, seed=4):
        codes.append(encoded(autoencoder.encoder, images))
        factors.append(said)
    return torch.cat(codes), torch.cat(factors)


def train(options: argparse.Namespace) -> TextToImage:
    """Train the autoencoder if need be, then the transformer."""
    autoencoder = shapes_vqvae.train(shapes_vqvae.MINUTES, options.workspace)
    torch.manual_seed(0)
    network = TokenTransformer(**CONFIG)
    codes, factors = code_pool(autoencoder, 500 if options.export_only else POOL)
    images, said = shapes.batch(256, "validation", torch.Generator().manual_seed(2))

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(codes), (BATCH,), generator=generator)
        return drop_words(factors[rows], generator), codes[rows]

    held_out = (said + 1, encoded(autoencoder.encoder, images))
    found, summary = train_prior("shapes-dalle", network, batch, held_out, options, SETTINGS)
    return TextToImage(autoencoder, found, summary)


def make(model: TextToImage, tokens: Tensor, seed: int, settings: Mapping[str, Any]) -> Tensor:
    """Images ``[n, 3, 32, 32]`` of captions ``[n, 6]``."""
    codes = draw_codes(model.transformer, tokens, seed, settings)
    return decoded(model.autoencoder.decoder, codes)


def choose_settings(model: TextToImage) -> dict[str, Any]:
    """The candidate whose samples are read best on captions of the validation split."""
    factors = shapes.sample_factors(CHOSEN_ON, "validation", torch.Generator().manual_seed(17))

    def score(settings: Mapping[str, Any]) -> float:
        images = make(model, factors + 1, 18, settings)
        return sum(judge.factor_accuracy(images, factors).values())

    return max(CANDIDATES, key=score)


def partial_caption_accuracy(
    model: TextToImage, factors: Tensor, settings: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """How often what a caption does say is drawn, for captions that leave parts out."""
    accuracy = {}
    for kind, left_out in PARTIAL_CAPTIONS.items():
        tokens = factors + 1
        tokens[:, [list(shapes.FACTORS).index(name) for name in left_out]] = 0
        read = judge.factor_accuracy(make(model, tokens, 24, settings), factors)
        accuracy[kind] = {name: rate for name, rate in read.items() if name not in left_out}
    return accuracy


def measure(model: TextToImage, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy, likelihood and use of codes on combinations that were never trained on."""
    images, factors = shapes.batch(MEASURED, "test", torch.Generator().manual_seed(19))
    codes = encoded(model.autoencoder.encoder, images)
    reconstruction = decoded(model.autoencoder.decoder, codes)
    samples = make(model, factors + 1, 20, settings)
    told = log_likelihood(model.transformer, factors + 1, codes)
    untold = log_likelihood(model.transformer, torch.zeros_like(factors), codes)
    bits = LENGTH * torch.tensor(2.0).log()
    return {
        "caption_accuracy": judge.factor_accuracy(samples, factors),
        "caption_accuracy_all_factors": judge.all_factors_accuracy(samples, factors),
        "partial_caption_accuracy": partial_caption_accuracy(model, factors, settings),
        "captions": MEASURED,
        "bits_per_code": round(float(-untold.mean() / bits), 4),
        "bits_per_code_under_caption": round(float(-told.mean() / bits), 4),
        "autoencoder_psnr_db": round(peak_signal_to_noise(reconstruction, images), 2),
        "autoencoder_factor_accuracy": judge.factor_accuracy(reconstruction, factors),
        "real_image_factor_accuracy": judge.factor_accuracy(images, factors),
        **codebook_use(codes, CODES, [LENGTH], [""]),
    }


def reference(model: TextToImage) -> list[float]:
    """Quantiles of validation images' log-likelihoods, in nats of their codes, under no prompt."""
    images, factors = shapes.batch(512, "validation", torch.Generator().manual_seed(31))
    codes = encoded(model.autoencoder.encoder, (images * 127.5 + 127.5).round() / 127.5 - 1)
    return quantiles(log_likelihood(model.transformer, torch.zeros_like(factors), codes))


def networks(model: TextToImage) -> list[NetworkExport]:
    """The three networks and what they take."""
    positions, width = model.transformer.place.shape
    return [
        NetworkExport(
            name="transformer",
            architecture="token_transformer",
            module=model.transformer,
            inputs={
                "token": Input((), "integer", 4),
                "position": Input((), "integer", positions),
                "tokens": Input((len(shapes.FACTORS),), "integer", 4),
                "cache": Input((CONFIG["depth"], 2, positions, width)),
            },
            config=CONFIG,
        ),
        NetworkExport(
            name="encoder",
            architecture="vector_quantized_encoder",
            module=model.autoencoder.encoder,
            inputs={"image": Input((3, 32, 32), "image")},
            config=shapes_vqvae.ENCODER_CONFIG,
        ),
        NetworkExport(
            name="decoder",
            architecture="vector_quantized_decoder",
            module=model.autoencoder.decoder,
            inputs={"codes": Input((LENGTH,), "integer", CODES)},
            config=shapes_vqvae.DECODER_CONFIG,
        ),
    ]


def package(model: TextToImage) -> Package:
    """The networks with their numbers, card and samples."""
    settings = choose_settings(model)
    captions = shapes.sample_factors(72, "test", torch.Generator().manual_seed(22))
    captions = captions[captions[:, 0].argsort(stable=True)]
    return Package(
        id="shapes-dalle",
        family="autoregressive",
        description="Text-to-image by a causal transformer over codes of colored shapes at 32x32: "
        "shape, color, background, size and place as in 'a large red star at the top left on "
        "black'.",
        networks=networks(model),
        options={
            "codes": CODES,
            "levels": [{"shape": [SIDE, SIDE]}],
            "tokenizer": shapes_vocabulary.tokenizer(),
            "defaults": settings,
            "reference_log_likelihoods": reference(model),
        },
        metrics=measure(model, settings),
        card=card(model.summary, settings),
        sheet=make(model, captions + 1, 23, settings),
        sheet_columns=12,
    )


def card(summary: str, settings: Mapping[str, Any]) -> Card:
    """The model card's words."""
    chosen = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    return Card(
        title="shapes-dalle",
        summary="A DALL-E style text-to-image model that draws one colored shape on a flat "
        "background at 32x32: a causal transformer writes 64 codes of a VQ-VAE, one after another, "
        "from captions such as *a large red star at the top left on black*. The sheet shows "
        "captions whose combinations were never trained on.",
        data=shapes.DATA_CARD,
        training=f"First a VQ-VAE (32x32x3 to 8x8 codes of {CODES}; the codebook follows averages, "
        f"dead codes begin anew; {shapes_vqvae.MINUTES:.0f} minutes), then a transformer of less "
        f"than half a million parameters on captions and codes: {summary} at batch {BATCH} on one "
        "busy CPU thread. A tenth of the captions is dropped whole for guidance, parts of half of "
        "them are dropped, so that *a red circle* works.",
        measured=f"{MEASURED} captions of the test split with {chosen}, settings that were chosen "
        "on validation captions. Factors are read by a classifier trained apart; its own rate on "
        "real images of the same captions is `real_image_factor_accuracy`, that on the VQ-VAE's "
        "reconstructions `autoencoder_factor_accuracy`. `bits_per_code` is the exact code length "
        "of the test images' codes: it says nothing of pixels. `codebook_use` is the share of "
        "codes that occur in the test images.",
        limits=(
            "It knows the words of its tokenizer and refuses others.",
            "Its likelihood is that of codes, exactly; many images share the same codes.",
            "Codes are written row by row: inpainting sees what is above and to the left of a "
            "hole, and nothing below it.",
            "One shape on a flat background; no photographs, no people.",
        ),
        recipe="model_store.recipes.shapes_dalle",
        pipeline_tag="text-to-image",
        dataset="atelier/captioned-shapes",
        tags=("autoregressive", "vq-vae", "dall-e"),
    )


def main() -> None:
    """Train, measure, export and package the model."""
    publish(package(train(arguments(__doc__ or "", minutes=MINUTES))))


if __name__ == "__main__":
    main()
