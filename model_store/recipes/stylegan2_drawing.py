"""First part of the StyleGAN2 recipe: the synthesis network learns to draw what an encoder saw.

A generator that starts from nothing has to find out from a discriminator alone what a shape is,
which takes millions of images. So the affine layers and the synthesis network first carry images
through one short latent (Kingma and Welling, 2013, arXiv:1312.6114); the games come after that.
"""

from __future__ import annotations

import argparse
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from model_store.architectures.blocks import gaussian_sample
from model_store.architectures.stylegan2 import StyleEncoder, StyleModulations, StyleSynthesis
from model_store.evaluation import judge
from model_store.recipes import shapes
from model_store.recipes.training import (
    Run,
    averaged,
    compiled,
    learning_rate,
    set_learning_rate,
)
from services.sampling.bounds import kl_to_standard_normal

RESOLUTION = 64
STYLE = 32
"""Numbers of a latent w."""
BATCH = 48
GENERATOR_RATE = 1e-2
"""Of layers with equalised rates, whose weights are of unit size."""
ENCODER_RATE = 2e-3
PIXEL_NOISE = 0.15
LOSS_SCALE = 0.01
DECAY = 0.998
NAMING_WEIGHT = 5.0
EARLY = 0.85
"""Share of the time in which images are drawn at half their size: steps take half as long."""


Network = TypeVar("Network", bound=nn.Module)


class Generator(nn.Module):
    """The affine layers and the synthesis network: latents to an image."""

    def __init__(self, resolution: int = RESOLUTION) -> None:
        """Build for latents of `STYLE` numbers."""
        super().__init__()
        self.synthesis = StyleSynthesis(resolution)
        self.styles = StyleModulations(STYLE, self.synthesis.style_channels)
        self.layers = len(self.synthesis.style_channels)

    def forward(self, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[n, layers, STYLE]``, or one latent for all layers ``[n, STYLE]``, to an image.

        The image is not bounded to [-1, 1]; without ``noise`` there is none.
        """
        if w.dim() == 2:
            w = w[:, None].expand(-1, self.layers, -1)
        if noise is None:
            noise = w.new_zeros(len(w), self.synthesis.noise_size)
        return self.synthesis.draw(self.styles(w), noise)


def halved(generator: Generator) -> Generator:
    """The same parameters, drawing at half the size: its layers know places, not pixels."""
    small = Generator(RESOLUTION // 2)
    small.styles = generator.styles
    for name in ("coarse", "coarse_color", "fine", "fine_color", "color"):
        setattr(small.synthesis, name, getattr(generator.synthesis, name))
    return small


class PosteriorEncoder(nn.Module):
    """An encoder that also says how sure it is, and names what w holds; for training."""

    def __init__(self, layers: int) -> None:
        """Build around the encoder that is published.

        Its convolutions are the judge's, and stay so here: an encoder that starts blank sees
        places and colors at once but forms late, so that the drawing learns blobs first.
        """
        super().__init__()
        self.encoder = StyleEncoder(layers, STYLE)
        lent = judge.judge().state_dict()
        own = self.encoder.state_dict()
        self.encoder.load_state_dict({name: lent.get(name, own[name]) for name in own})
        for part in (self.encoder.trunk, self.encoder.norm, self.encoder.squeeze):
            part.requires_grad_(False)
        self.log_variance = nn.Linear(self.encoder.hidden.out_features, STYLE)
        self.values = [len(values) for values in shapes.FACTORS.values()]
        self.names = nn.Linear(STYLE, sum(self.values))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of w, each ``[n, STYLE]``, of images ``[n, 3, 32, 32]``."""
        h = self.encoder.features(image)
        return self.encoder.shared(h), self.log_variance(h).clamp(-12.0, 4.0)

    def naming_loss(self, w: Tensor, factors: Tensor) -> Tensor:
        """Cross-entropy of the factors ``[n, 6]``, told linearly from w ``[n, STYLE]``.

        Pixels alone keep a blob in the right place for long before they ask for its form.
        """
        logits = self.names(w).split(self.values, dim=1)
        losses = [functional.cross_entropy(row, factors[:, i]) for i, row in enumerate(logits)]
        return torch.stack(losses).sum()


def drawing_loss(drawn: Tensor, image: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:
    """Minus the evidence lower bound in nats, up to a constant; pixels are Gaussian.

    Args:
        drawn: what was made of a draw from the encoder's Gaussian, ``[n, 3, side, side]``.
        image: what the encoder saw, at that size.
        seen: the encoder's mean and log variance, each ``[n, STYLE]``.
    """
    error = (drawn - image).square().flatten(1).mean(dim=1)
    values = 3 * RESOLUTION * RESOLUTION
    return (values * error / (2 * PIXEL_NOISE**2) + kl_to_standard_normal(*seen)).mean()


def settled(network: Network, average: AveragedModel) -> Network:
    """The network with its averaged weights, in eval mode."""
    network.load_state_dict(average.module.state_dict())
    return network.eval()


def learn_to_draw(
    options: argparse.Namespace, minutes: float
) -> tuple[Generator, PosteriorEncoder, str]:
    """Train both; their averaged weights in eval mode, and how long it took."""
    generator = Generator()
    encoder = PosteriorEncoder(generator.layers)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=GENERATOR_RATE, betas=(0.9, 0.99))
    learning = [p for p in encoder.parameters() if p.requires_grad]
    optimizer_e = torch.optim.Adam(learning, lr=ENCODER_RATE, betas=(0.9, 0.99))
    averages = averaged(generator, DECAY), averaged(encoder, DECAY)
    run = Run(
        "shapes-stylegan2-drawing",
        minutes,
        options.workspace,
        {
            "generator": generator,
            "encoder": encoder,
            "average_generator": averages[0],
            "average_encoder": averages[1],
            "optimizer_g": optimizer_g,
            "optimizer_e": optimizer_e,
        },
        fresh=options.fresh,
        export_only=options.export_only,
    )
    large, small = compiled(generator), compiled(halved(generator))
    for step in run.steps():
        set_learning_rate(optimizer_g, learning_rate(run.progress, GENERATOR_RATE))
        set_learning_rate(optimizer_e, learning_rate(run.progress, ENCODER_RATE))
        early = run.progress < EARLY
        side = RESOLUTION // 2 if early else RESOLUTION
        image, factors = shapes.batch(BATCH, "train", run.generator, resolution=side)
        seen = encoder(image if early else functional.avg_pool2d(image, 2))
        noise = torch.randn(BATCH, STYLE, generator=run.generator)
        mean, log_variance = seen
        w = gaussian_sample(mean, log_variance, noise)
        drawn = (small if early else large)(w)
        naming = encoder.naming_loss(w, factors)
        loss = LOSS_SCALE * drawing_loss(drawn, image, seen) + NAMING_WEIGHT * naming
        for optimizer in (optimizer_g, optimizer_e):
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer, network in ((optimizer_g, generator), (optimizer_e, encoder)):
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
        averages[0].update_parameters(generator)
        averages[1].update_parameters(encoder)
        if step % 50 == 0:
            kl = kl_to_standard_normal(*(part.detach() for part in seen)).mean()
            error = (drawn.detach().clamp(-1, 1) - image).square().mean()
            run.log(
                loss=float(loss.detach()),
                naming=float(naming.detach()),
                kl=float(kl),
                psnr=float(10 * (4 / error).log10()),
            )
    return settled(generator, averages[0]), settled(encoder, averages[1]), run.summary()
