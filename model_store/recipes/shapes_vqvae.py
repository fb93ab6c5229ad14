"""Train the discrete autoencoder of shapes: ``python -m model_store.recipes.shapes_vqvae``.

`shapes_dalle` works on its codes, 8x8 of them for an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_store.architectures.vector_quantized import (
    VectorQuantizedDecoder,
    VectorQuantizedEncoder,
)
from model_store.evaluation import judge
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.recipes import shapes
from model_store.recipes.shapes_autoencoder import edges
from model_store.recipes.training import (
    Run,
    arguments,
    learning_rate,
    set_learning_rate,
)
from model_store.recipes.vector_quantization import (
    MovingCodebook,
    decoded,
    encoded,
    start_from_principal_components,
)

BATCH = 64
MINUTES = 7.0
PEAK_RATE = 2e-3
EDGE_WEIGHT = 0.5
POOL = 30_000
SIDE = 8
CODES = 512
COMMON: dict[str, Any] = {"channels": 3, "codes": CODES, "dim": 8, "patch": 4, "width": 48}
ENCODER_CONFIG: dict[str, Any] = {**COMMON, "blocks": 2}
DECODER_CONFIG: dict[str, Any] = {**COMMON, "blocks": 3, "side": SIDE, "fine": 12}


class DiscreteAutoencoder(NamedTuple):
    """The two networks that map images to codes and back."""

    encoder: VectorQuantizedEncoder
    decoder: VectorQuantizedDecoder


def pool(count: int) -> Tensor:
    """``count`` training images, kept in half precision: drawing them costs as much as learning."""
    return torch.cat([images.half() for images, _ in shapes.pool(count, seed=0)])


def train(minutes: float, workspace: Path, *, fresh: bool = False) -> DiscreteAutoencoder:
    """Train until the time is spent, or take up the finished checkpoint."""
    torch.manual_seed(0)
    encoder, decoder = (
        VectorQuantizedEncoder(**ENCODER_CONFIG),
        VectorQuantizedDecoder(**DECODER_CONFIG),
    )
    decoder.codebook = encoder.codebook
    moving = MovingCodebook(encoder.codebook)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=1e-4, betas=(0.9, 0.98))
    parts: dict[str, Any] = {
        "encoder": encoder,
        "decoder": decoder,
        "moving": moving,
        "optimizer": optimizer,
    }
    run = Run("shapes-vqvae", minutes, workspace, parts, fresh=fresh)
    if run.progress < 1.0:
        images = pool(POOL)
        if run.step == 0:
            some = images[:2048].float()
            start_from_principal_components(encoder.features, decoder.painter, some)
        learn(run, DiscreteAutoencoder(encoder, decoder), moving, images)
    return DiscreteAutoencoder(encoder.eval(), decoder.eval())


def learn(run: Run, networks: DiscreteAutoencoder, moving: MovingCodebook, images: Tensor) -> None:
    """The steps of the run."""
    encoder, decoder = networks
    optimizer = run.state["optimizer"]
    parameters = [*encoder.parameters(), *decoder.parameters()]
    held_out, factors = shapes.batch(256, "validation", torch.Generator().manual_seed(2))
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, PEAK_RATE))
        rows = torch.randint(len(images), (BATCH,), generator=run.generator)
        image = images[rows].float()
        vectors, commitment = moving.quantize(encoder.features(image), run.generator)
        loss = drawing_loss(decoder.painter(vectors), image) + commitment
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            codes = encoded(encoder, held_out)
            image = decoded(decoder, codes)
            run.log(
                loss=float(loss.detach()),
                psnr=peak_signal_to_noise(image, held_out),
                used=len(codes.unique()) / CODES,
                shape=judge.factor_accuracy(image, factors)["shape"],
            )


def drawing_loss(output: Tensor, image: Tensor) -> Tensor:
    """Of pixels, absolute and squared, and of their differences to neighbours."""
    pixel = (output - image).abs().mean() + (output - image).square().mean()
    edge = sum(
        ((a - b).abs().mean() for a, b in zip(edges(output), edges(image), strict=True)),
        start=torch.zeros(()),
    )
    return pixel + EDGE_WEIGHT * edge


def main() -> None:
    """Train the autoencoder."""
    options = arguments(__doc__ or "", minutes=MINUTES)
    train(options.minutes, options.workspace, fresh=options.fresh)


if __name__ == "__main__":
    main()
