"""Train the text-to-image model: ``python -m model_store.recipes.shapes_ldm``.

Rectified flow (Liu et al., 2022, arXiv:2209.03003) with logit-normal times (Esser et al., 2024,
arXiv:2403.03206, section 3.1) on the latents of `shapes_autoencoder`, which is trained first when
its checkpoint is missing.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_store.architectures.caption_transformer import CaptionTransformer
from model_store.recipes import shapes, shapes_autoencoder
from model_store.recipes.latents import Standardizer, encode_pool
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


class TextToImage(NamedTuple):
    """A trained latent diffusion model."""

    autoencoder: Autoencoder
    denoiser: nn.Module
    standardizer: Standardizer


def drop_words(factors: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens ``[n, 6]`` of captions that leave things out, as prompts do.

    A tenth says nothing at all (for classifier-free guidance), two fifths leave out each factor but
    the shape with probability 0.35 and the shape with 0.05, the rest says everything.
    """
    count, slots = factors.shape
    kind = torch.rand(count, 1, generator=generator)
    chance = torch.full((1, slots), 0.35)
    chance[0, 0] = 0.05
    left_out = torch.rand(count, slots, generator=generator) < chance
    null = (kind < 0.1) | ((kind < 0.5) & left_out)
    return (factors + 1).masked_fill(null, 0)


def train_denoiser(
    options: argparse.Namespace, autoencoder: Autoencoder
) -> tuple[nn.Module, Standardizer]:
    """Train until the time is spent; the averaged denoiser and the latents' standardisation."""
    network = CaptionTransformer()
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
    if run.progress >= 1.0:
        return average.module.eval(), standardizer
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
    return average.module.eval(), standardizer


def train(options: argparse.Namespace) -> TextToImage:
    """Train the autoencoder if need be, then the denoiser."""
    autoencoder = shapes_autoencoder.train(shapes_autoencoder.MINUTES, options.workspace)
    denoiser, standardizer = train_denoiser(options, autoencoder)
    return TextToImage(autoencoder, denoiser, standardizer)


def main() -> None:
    """Train the model."""
    train(arguments(__doc__ or "", minutes=65))


if __name__ == "__main__":
    main()
