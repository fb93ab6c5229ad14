"""Inversion for the StyleGAN2 recipe: an encoder into W+, and the descent that follows it."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional

from model_store.architectures.stylegan2 import StyleEncoder
from model_store.evaluation.enlargement import psnr
from model_store.recipes import shapes
from model_store.recipes.stylegan2_drawing import RESOLUTION, settled
from model_store.recipes.stylegan2_games import LATENT, Player
from model_store.recipes.training import (
    Run,
    averaged,
    compiled,
    learning_rate,
    set_learning_rate,
)

BATCH = 24
"""Of made images, and as many real ones beside them."""
RATE = 1e-3
LATENT_WEIGHT = 0.1
CLOSENESS = 0.01
"""Weight of how far the layers' latents are from one another: near W, edits keep their meaning."""
STEPS, STEP_RATE = 100, 0.05


def learn_to_invert(
    player: Player, encoder: StyleEncoder, options: argparse.Namespace, minutes: float
) -> tuple[StyleEncoder, str]:
    """Train an encoder against the frozen generator; its average, and how long it took.

    Made images tell it the latents they came from; real ones have to come back as they were
    (Richardson et al., 2021, arXiv:2008.00951).
    """
    player.requires_grad_(False)
    average = averaged(encoder, 0.99)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=RATE, betas=(0.9, 0.99))
    run = Run(
        "shapes-stylegan2-encoder",
        minutes,
        options.workspace,
        {"encoder": encoder, "average": average, "optimizer": optimizer},
        fresh=options.fresh,
        export_only=options.export_only,
    )
    draw = compiled(player.generator)
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, RATE))
        real, _ = shapes.batch(BATCH, "train", run.generator, resolution=RESOLUTION)
        with torch.no_grad():
            wanted = player.mapping(torch.randn(BATCH, LATENT, generator=run.generator))
            made = draw(wanted).clamp(-1, 1)
        images = torch.cat([real, made])
        found = encoder(images)
        error = functional.mse_loss(draw(found), images)
        apart = (found - found.mean(dim=1, keepdim=True)).square().mean()
        missed = functional.smooth_l1_loss(found[BATCH:].mean(dim=1), wanted)
        loss = error + LATENT_WEIGHT * missed + CLOSENESS * apart
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(encoder)
        if step % 20 == 0:
            run.log(error=float(error.detach()), latent=float(missed.detach()))
    return settled(encoder, average), run.summary()


def refine(player: Player, start: Tensor, images: Tensor) -> Tensor:
    """Latents ``[n, layers, STYLE]`` nearer to the images, by `STEPS` of Adam on the pixels."""
    w = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([w], lr=STEP_RATE)
    for step in range(STEPS):
        set_learning_rate(optimizer, learning_rate(step / STEPS, STEP_RATE, warm_up=0.05))
        error = (player.generator(w) - images).square().flatten(1).mean(dim=1).sum()
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        optimizer.step()
    return w.detach()


def measure_inversion(
    player: Player, encoder: StyleEncoder, count: int = 48
) -> dict[str, float | int]:
    """Peak signal-to-noise ratio in dB of inverted held-out images, before and after descent."""
    generator = torch.Generator().manual_seed(21)
    images, _ = shapes.batch(count, "test", generator, resolution=RESOLUTION)
    with torch.no_grad():
        guessed = encoder(images)
    refined = refine(player, guessed, images)
    with torch.no_grad():
        first, last = (player.generator(w).clamp(-1, 1) for w in (guessed, refined))
    return {
        "inversion_psnr_db_by_encoder": round(float(psnr(first, images).mean()), 2),
        "inversion_psnr_db_by_optimization": round(float(psnr(last, images).mean()), 2),
        "inversion_images": count,
    }
