"""Train the variational autoencoder: ``python -m model_store.recipes.shapes_vae``."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_store.architectures.blocks import gaussian_sample
from model_store.architectures.vae import VectorDecoder, VectorEncoder
from model_store.evaluation.likelihood import discretized_logistic_log_likelihood, gaussian_kl
from model_store.recipes import shapes
from model_store.recipes.shapes_autoencoder import peak_signal_to_noise
from model_store.recipes.training import (
    Run,
    arguments,
    averaged,
    learning_rate,
    set_learning_rate,
)

BATCH = 64
LATENT = 64
PEAK_RATE = 2e-3
PIXELS = 3 * 32 * 32


class Observation(nn.Module):
    """The scale of the logistic around a decoded pixel, one number for all."""

    def __init__(self) -> None:
        """Start at 16 of the 255 steps between black and white."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(16.0).log())

    def forward(self) -> Tensor:
        """The scale in 8-bit pixel steps."""
        return self.log_scale.exp()


class VariationalAutoencoder(NamedTuple):
    """A trained variational autoencoder with its observation model."""

    encoder: nn.Module
    decoder: nn.Module
    observation: Observation


def start_from_principal_components(encoder: VectorEncoder, decoder: VectorDecoder) -> None:
    """Set the linear paths to whitened leading principal components of whole images."""
    images, _ = shapes.batch(4096, "train", torch.Generator().manual_seed(1))
    rows = images.flatten(1)
    mean = rows.mean(0)
    _, spread, basis = torch.svd_lowrank(rows - mean, q=encoder.linear.out_features + 16)
    kept = encoder.linear.out_features
    deviation = spread[:kept] / len(rows) ** 0.5
    whiten = (basis[:, :kept] / deviation).T
    with torch.no_grad():
        encoder.linear.weight.copy_(whiten)
        encoder.linear.bias.copy_(-whiten @ mean)
        decoder.linear.weight.copy_(basis[:, :kept] * deviation)
        decoder.linear.bias.copy_(mean)


def train(options: argparse.Namespace) -> VariationalAutoencoder:
    """Maximise the evidence lower bound until the time is spent; the averaged networks."""
    encoder, decoder, observation = VectorEncoder(LATENT), VectorDecoder(LATENT), Observation()
    start_from_principal_components(encoder, decoder)
    averages = averaged(encoder, 0.998), averaged(decoder, 0.998)
    parameters = [*encoder.parameters(), *decoder.parameters(), *observation.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=1e-4, betas=(0.9, 0.98))
    run = Run(
        "shapes-vae",
        options.minutes,
        options.workspace,
        {
            "encoder": encoder,
            "decoder": decoder,
            "observation": observation,
            "average_encoder": averages[0],
            "average_decoder": averages[1],
            "optimizer": optimizer,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    held_out, _ = shapes.batch(256, "validation", torch.Generator().manual_seed(2))
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, PEAK_RATE))
        images, _ = shapes.batch(BATCH, "train", run.generator)
        mean, log_variance = encoder(images)
        noise = torch.randn(mean.shape, generator=run.generator)
        output = decoder(gaussian_sample(mean, log_variance, noise))
        nats = discretized_logistic_log_likelihood(images, output, observation()).mean()
        kl = gaussian_kl(mean, log_variance).mean()
        warm_up = min(1.0, run.progress / 0.1)
        loss = (warm_up * kl - nats) / PIXELS
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for average, network in zip(averages, (encoder, decoder), strict=True):
            average.update_parameters(network)
        if step % 100 == 0:
            with torch.no_grad():
                psnr = peak_signal_to_noise(averages[1](averages[0](held_out)[0]), held_out)
            run.log(
                nats=float(nats.detach()),
                kl=float(kl.detach()),
                psnr=psnr,
                scale=float(observation().detach()),
            )
    return VariationalAutoencoder(
        averages[0].module.eval(), averages[1].module.eval(), observation
    )


def main() -> None:
    """Train the model."""
    train(arguments(__doc__ or "", minutes=20))


if __name__ == "__main__":
    main()
