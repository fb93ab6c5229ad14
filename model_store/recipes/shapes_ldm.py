"""Train the text-to-image model: ``python -m model_store.recipes.shapes_ldm``.

Rectified flow (Liu et al., 2022, arXiv:2209.03003) with logit-normal times (Esser et al., 2024,
arXiv:2403.03206, section 3.1) on the latents of `shapes_autoencoder`, which is trained first when
its checkpoint is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model_store.architectures.caption_transformer import CaptionTransformer
from model_store.evaluation import judge, rectified_flow
from model_store.evaluation.likelihood import fit_logistic_scale
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import shapes, shapes_autoencoder, shapes_vocabulary
from model_store.recipes.latents import Standardizer, encode_pool
from model_store.recipes.reference import add_reference
from model_store.recipes.shapes_autoencoder import Autoencoder
from model_store.recipes.training import (
    Run,
    arguments,
    averaged,
    compiled,
    learning_rate,
    set_learning_rate,
)

BATCH = 64
POOL = 80_000
PEAK_RATE = 2e-3
LATENT_SHAPE = (8, 8, 8)
CONFIG: dict[str, Any] = {
    "values": [len(values) for values in shapes.FACTORS.values()],
    "latent_channels": 8,
    "side": 8,
    "width": 96,
    "depth": 5,
    "heads": 4,
}
MEASURED = 512
CHOSEN_ON = 256
CANDIDATES: tuple[dict[str, Any], ...] = tuple(
    {"sampler": sampler, "steps": 20, "guidance_scale": scale}
    for sampler in ("dpmpp_2m", "euler")
    for scale in (2.0, 3.0, 4.0)
)
"""Default settings to choose from."""
PARTIAL_CAPTIONS: dict[str, tuple[str, ...]] = {
    "without_place": ("vertical", "horizontal"),
    "shape_and_color_only": ("background", "size", "vertical", "horizontal"),
}
"""Kinds of captions that leave parts out, and which: *a large red star on black*, *a red star*."""


class TextToImage(NamedTuple):
    """A trained latent diffusion model."""

    autoencoder: Autoencoder
    denoiser: nn.Module
    standardizer: Standardizer
    summary: str


def drop_words(factors: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens ``[n, 6]`` of captions that leave things out, as prompts do.

    A tenth says nothing at all (for classifier-free guidance), 55 in 100 leave out the whole place
    half of the time and each other factor but the shape with probability 0.35 (the shape: 0.05),
    the rest says everything. A caption without a place is the hardest: where the shape goes has to
    be settled while it is drawn.
    """
    count, slots = factors.shape
    kind = torch.rand(count, 1, generator=generator)
    chance = torch.full((1, slots), 0.35)
    chance[0, 0] = 0.05
    left_out = torch.rand(count, slots, generator=generator) < chance
    left_out[:, 4:] |= torch.rand(count, 1, generator=generator) < 0.5
    null = (kind < 0.1) | ((kind < 0.65) & left_out)
    return (factors + 1).masked_fill(null, 0)


def train_denoiser(
    options: argparse.Namespace, autoencoder: Autoencoder
) -> tuple[nn.Module, Standardizer, str]:
    """Train until the time is spent; the averaged denoiser, the latents' scale, the summary."""
    network = CaptionTransformer(**CONFIG)
    average = averaged(network, 0.999)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=PEAK_RATE, weight_decay=1e-4, betas=(0.9, 0.98)
    )
    standardizer = Standardizer()
    run = Run(
        "shapes-ldm",
        options.minutes,
        options.workspace,
        {
            "network": network,
            "average": average,
            "optimizer": optimizer,
            "standardizer": standardizer,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    if options.export_only or run.progress >= 1.0:
        return average.module.eval(), standardizer, run.summary()
    latents, factors = encode_pool(autoencoder.encoder, POOL)
    standardizer.fit(latents)
    latents = standardizer(latents)
    forward = compiled(network)
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, PEAK_RATE))
        rows = torch.randint(len(latents), (BATCH,), generator=run.generator)
        data, tokens = latents[rows], drop_words(factors[rows], run.generator)
        noise = torch.randn(data.shape, generator=run.generator)
        t = torch.randn(BATCH, generator=run.generator).sigmoid()
        share = t.view(-1, 1, 1, 1)
        velocity = forward((1 - share) * data + share * noise, t, tokens)
        loss = (velocity - (noise - data)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        if step % 100 == 0:
            run.log(loss=float(loss.detach()), norm=float(norm))
    return average.module.eval(), standardizer, run.summary()


def train(options: argparse.Namespace) -> TextToImage:
    """Train the autoencoder if need be, then the denoiser."""
    autoencoder = shapes_autoencoder.train(shapes_autoencoder.MINUTES, options.workspace)
    denoiser, standardizer, summary = train_denoiser(options, autoencoder)
    return TextToImage(autoencoder, denoiser, standardizer, summary)


def make(model: TextToImage, tokens: Tensor, seed: int, settings: Mapping[str, Any]) -> Tensor:
    """Images ``[n, 3, 32, 32]`` of captions ``[n, 6]``."""
    shape = (len(tokens), *LATENT_SHAPE)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    images = []
    with torch.no_grad():
        for part in zip(noise.split(128), tokens.split(128), strict=True):
            latents = rectified_flow.sample(model.denoiser, *part, **settings)
            images.append(model.autoencoder.decoder(model.standardizer.inverse(latents)))
    return torch.cat(images)


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
    """How often what a caption does say is drawn, for captions that leave parts out.

    Returns:
        For each kind of caption in `PARTIAL_CAPTIONS`, the rate of each factor that it names.
    """
    accuracy = {}
    for kind, left_out in PARTIAL_CAPTIONS.items():
        tokens = factors + 1
        tokens[:, [list(shapes.FACTORS).index(name) for name in left_out]] = 0
        read = judge.factor_accuracy(make(model, tokens, 24, settings), factors)
        accuracy[kind] = {name: rate for name, rate in read.items() if name not in left_out}
    return accuracy


def measure(model: TextToImage, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Caption and reconstruction accuracy on combinations that were never trained on."""
    generator = torch.Generator().manual_seed(19)
    images, factors = shapes.batch(MEASURED, "test", generator)
    samples = make(model, factors + 1, 20, settings)
    with torch.no_grad():
        reconstruction = model.autoencoder.decoder(model.autoencoder.encoder(images)[0])
    return {
        "caption_accuracy": judge.factor_accuracy(samples, factors),
        "caption_accuracy_all_factors": judge.all_factors_accuracy(samples, factors),
        "partial_caption_accuracy": partial_caption_accuracy(model, factors, settings),
        "captions": MEASURED,
        "autoencoder_psnr_db": round(peak_signal_to_noise(reconstruction, images), 2),
        "autoencoder_factor_accuracy": judge.factor_accuracy(reconstruction, factors),
        "real_image_factor_accuracy": judge.factor_accuracy(images, factors),
    }


def observation_scale(model: TextToImage) -> float:
    """Scale of the logistic around a decoded pixel, fitted on validation images."""
    images, _ = shapes.batch(256, "validation", torch.Generator().manual_seed(21))
    with torch.no_grad():
        return fit_logistic_scale(
            images, model.autoencoder.decoder(model.autoencoder.encoder(images)[0])
        )


def networks(model: TextToImage) -> list[NetworkExport]:
    """The three networks and what they take."""
    return [
        NetworkExport(
            name="denoiser",
            architecture="caption_transformer",
            module=model.denoiser,
            inputs={
                "x": Input(LATENT_SHAPE),
                "t": Input((), "unit"),
                "tokens": Input((len(shapes.FACTORS),), "integer", 4),
            },
            config=CONFIG,
        ),
        NetworkExport(
            name="encoder",
            architecture="spatial_encoder",
            module=model.autoencoder.encoder,
            inputs={"image": Input((3, 32, 32), "image")},
            config=shapes_autoencoder.ENCODER_CONFIG,
        ),
        NetworkExport(
            name="decoder",
            architecture="spatial_decoder",
            module=model.autoencoder.decoder,
            inputs={"z": Input(LATENT_SHAPE)},
            config=shapes_autoencoder.DECODER_CONFIG,
        ),
    ]


def package(model: TextToImage) -> Package:
    """The networks with their numbers, card and samples."""
    settings = choose_settings(model)
    captions = shapes.sample_factors(72, "test", torch.Generator().manual_seed(22))
    captions = captions[captions[:, 0].argsort(stable=True)]
    return Package(
        id="shapes-ldm",
        family="diffusion",
        description="Text-to-image latent diffusion (rectified flow) of colored shapes at 32x32: "
        "shape, color, background, size and place as in 'a large red star at the top left on "
        "black'.",
        networks=networks(model),
        options={
            "prediction_type": "flow",
            "schedule": {"type": "flow"},
            "latent": {
                "shape": list(LATENT_SHAPE),
                "shift": [round(float(v), 6) for v in model.standardizer.shift],
                "scale": [round(float(v), 6) for v in model.standardizer.scale],
            },
            "observation": {
                "distribution": "discretized_logistic",
                "scale": round(observation_scale(model), 4),
            },
            "tokenizer": shapes_vocabulary.tokenizer(),
            "defaults": settings,
        },
        metrics=measure(model, settings),
        card=card(model.summary, settings),
        sheet=make(model, captions + 1, 23, settings),
        sheet_columns=12,
    )


def card(summary: str, settings: Mapping[str, Any]) -> Card:
    """The model card's words."""
    return Card(
        title="shapes-ldm",
        summary="A text-to-image latent diffusion model that draws one colored shape on a flat "
        "background at 32x32, from captions such as *a large red star at the top left on black*. "
        "The sheet shows captions whose combinations were never trained on.",
        data=shapes.DATA_CARD,
        training="First a spatial autoencoder (32x32x3 to 8x8x8; a linear path that starts at "
        f"principal components of 4x4 patches, {shapes_autoencoder.MINUTES:.0f} minutes), then a "
        "transformer of 0.9 million parameters on its standardised latents: rectified flow with "
        f"logit-normal times, {summary} at batch {BATCH} on one CPU thread. A tenth of the "
        "captions is dropped whole for classifier-free guidance, parts of half of them are dropped "
        "(at first two fifths, later 55 in 100), so that *a red circle* works.",
        measured=f"{MEASURED} captions of the test split with sampler `{settings['sampler']}`, "
        f"{settings['steps']} steps, guidance {settings['guidance_scale']}, settings that were "
        "chosen on validation captions. Factors are read by a classifier trained apart; its own "
        "rate on real images of the same captions is `real_image_factor_accuracy`.",
        limits=(
            "It knows the words of its tokenizer and refuses others.",
            "One shape on a flat background; no photographs, no people.",
            "Shapes far smaller than their 4x4 patches lose detail first.",
        ),
        recipe="model_store.recipes.shapes_ldm",
        pipeline_tag="text-to-image",
        dataset="atelier/captioned-shapes",
        tags=("latent-diffusion", "rectified-flow"),
    )


def main() -> None:
    """Train, measure, export and package the model, then add its reference likelihoods."""
    publish(package(train(arguments(__doc__ or "", minutes=65))))
    add_reference("shapes-ldm")


if __name__ == "__main__":
    main()
