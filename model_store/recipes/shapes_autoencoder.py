"""Train the autoencoder of the latent models: ``python -m model_store.recipes.shapes_autoencoder``.

The latent diffusion model and the GAN both work on its latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model_store.architectures.autoencoder import SpatialDecoder, SpatialEncoder
from model_store.architectures.blocks import gaussian_sample
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.recipes import shapes
from model_store.recipes.training import Run, arguments, learning_rate, set_learning_rate

BATCH = 64
MINUTES = 16.0
ENCODER_CONFIG = {"channels": 3, "latent_channels": 8, "width": 64, "blocks": 3}
DECODER_CONFIG = {"channels": 3, "latent_channels": 8, "width": 64, "blocks": 4}
KL_WEIGHT = 1e-5
EDGE_WEIGHT = 0.5


def start_from_principal_components(encoder: SpatialEncoder, decoder: SpatialDecoder) -> None:
    """Set the linear paths to the leading principal components of 4x4 patches."""
    images, _ = shapes.batch(2048, "train", torch.Generator().manual_seed(1))
    patches = torch.nn.functional.unfold(images, 4, stride=4).transpose(1, 2).reshape(-1, 48)
    mean = patches.mean(0)
    _, _, basis = torch.linalg.svd(patches[::7] - mean, full_matrices=False)
    basis = basis[: encoder.linear.out_channels]
    with torch.no_grad():
        for linear, bias in (
            (encoder.linear, -basis @ mean),
            (decoder.linear, mean.view(3, 16).mean(1)),
        ):
            linear.load_state_dict({"weight": basis.view_as(linear.weight), "bias": bias})


def edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical differences between neighbouring pixels."""
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


class Autoencoder(NamedTuple):
    """The two networks that map images to latents and back."""

    encoder: SpatialEncoder
    decoder: SpatialDecoder


def train(minutes: float, workspace: Path, *, fresh: bool = False) -> Autoencoder:
    """Train until the time is spent, or take up the finished checkpoint."""
    encoder, decoder = SpatialEncoder(**ENCODER_CONFIG), SpatialDecoder(**DECODER_CONFIG)
    start_from_principal_components(encoder, decoder)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4, betas=(0.9, 0.98))
    run = Run(
        "shapes-autoencoder",
        minutes,
        workspace,
        {"encoder": encoder, "decoder": decoder, "optimizer": optimizer},
        fresh=fresh,
    )
    held_out, _ = shapes.batch(256, "validation", torch.Generator().manual_seed(2))
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, 2e-3))
        images, _ = shapes.batch(BATCH, "train", run.generator)
        mean, log_variance = encoder(images)
        noise = torch.randn(mean.shape, generator=run.generator)
        output = decoder(gaussian_sample(mean, log_variance, noise))
        pixel = (output - images).abs().mean() + (output - images).square().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(output), edges(images), strict=True))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = pixel + EDGE_WEIGHT * edge + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            with torch.no_grad():
                psnr = peak_signal_to_noise(decoder(encoder(held_out)[0]), held_out)
            run.log(
                loss=float(loss.detach()), psnr=psnr, std=float((0.5 * log_variance).exp().mean())
            )
    return Autoencoder(encoder.eval(), decoder.eval())


def main() -> None:
    """Train the autoencoder."""
    options = arguments(__doc__ or "", minutes=MINUTES)
    train(options.minutes, options.workspace, fresh=options.fresh)


if __name__ == "__main__":
    main()
