"""Train the beta-VAE: ``python -m model_store.recipes.shapes_beta_vae``.

Beside it a plain VAE is trained on the same images for as many steps, from the same first weights,
with nothing changed but beta. It is not published: what disentanglement beta bought is measured
against it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model_store.architectures.blocks import gaussian_sample
from model_store.architectures.convolutional_vae import ConvolutionalDecoder, ConvolutionalEncoder
from model_store.evaluation import judge
from model_store.evaluation.likelihood import fit_logistic_scale, observed_log_likelihood
from model_store.evaluation.metrics.disentanglement import Disentanglement, dci
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import shapes
from model_store.recipes.reference import add_reference
from model_store.recipes.training import (
    Run,
    arguments,
    averaged,
    learning_rate,
    set_learning_rate,
)
from services.sampling.bounds import bits_per_dim, kl_to_standard_normal

BATCH = 64
BETA = 8.0
LATENT = 10
CONFIG = {"latent": LATENT, "width": 32, "hidden": 128}
PEAK_RATE = 2e-3
PIXEL_NOISE = 0.1
"""Standard deviation of the Gaussian around a pixel in training, of the range -1 to 1."""
WARM_UP = 0.2
"""Share of the run in which the weight of the divergence rises to beta."""
LOSS_SCALE = 0.01
PIXELS = 3 * 32 * 32
FITTED, MEASURED = 3000, 1024
ACTIVE_NATS = 0.1
SHEET_COLUMNS = 12
REACH = 2.0


class Autoencoder(nn.Module):
    """An encoder, a decoder, and the weight that they were trained with."""

    def __init__(self, beta: float) -> None:
        """Build from fixed first weights."""
        super().__init__()
        torch.manual_seed(0)
        self.beta = beta
        self.encoder = ConvolutionalEncoder(**CONFIG)
        self.decoder = ConvolutionalDecoder(**CONFIG)

    def loss(self, images: Tensor, noise: Tensor, warm_up: float) -> Tensor:
        """Higgins et al., 2017, eq. 4: nats of the error, and beta times the divergence."""
        mean, log_variance = self.encoder(images)
        drawn = self.decoder(gaussian_sample(mean, log_variance, noise))
        error = (drawn - images).square().flatten(1).sum(1) / (2 * PIXEL_NOISE**2)
        kl = kl_to_standard_normal(mean, log_variance)
        return LOSS_SCALE * (error + self.beta * warm_up * kl).mean()

    def reconstruct(self, images: Tensor) -> Tensor:
        """What the decoder makes of the posterior's mean."""
        image: Tensor = self.decoder(self.encoder(images)[0])
        return image


class Trained(NamedTuple):
    """Both models, and how long they took."""

    model: Autoencoder
    plain: Autoencoder
    summary: str


class Player:
    """One of the two in training."""

    def __init__(self, beta: float) -> None:
        self.network = Autoencoder(beta)
        self.average = averaged(self.network, 0.998)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=PEAK_RATE)

    def state(self, name: str) -> Iterator[tuple[str, Any]]:
        """What its checkpoint holds."""
        yield f"{name}", self.network
        yield f"{name}_average", self.average
        yield f"{name}_optimizer", self.optimizer

    def learn(self, images: Tensor, noise: Tensor, run: Run) -> float:
        """One step; its loss."""
        set_learning_rate(self.optimizer, learning_rate(run.progress, PEAK_RATE))
        loss = self.network.loss(images, noise, min(1.0, run.progress / WARM_UP))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())


def train(options: argparse.Namespace) -> Trained:
    """Train both side by side until the time is spent; the averaged networks."""
    players = {"beta": Player(BETA), "plain": Player(1.0)}
    run = Run(
        "shapes-beta-vae",
        options.minutes,
        options.workspace,
        {key: part for name, one in players.items() for key, part in one.state(name)},
        fresh=options.fresh,
        export_only=options.export_only,
    )
    held_out, _ = shapes.batch(256, "validation", torch.Generator().manual_seed(2))
    for step in run.steps():
        images, _ = shapes.batch(BATCH, "train", run.generator)
        noise = torch.randn(BATCH, LATENT, generator=run.generator)
        losses = {name: one.learn(images, noise, run) for name, one in players.items()}
        if step % 100 == 0:
            with torch.no_grad():
                found = {
                    f"{name}_psnr": peak_signal_to_noise(
                        one.average.module.reconstruct(held_out),  # type: ignore[operator]  # a method
                        held_out,
                    )
                    for name, one in players.items()
                }
            run.log(**losses, **found)
    first, second = (one.average.module.eval() for one in players.values())
    if not isinstance(first, Autoencoder) or not isinstance(second, Autoencoder):
        raise TypeError("an average holds another module; this is a bug")
    return Trained(first, second, run.summary())


@torch.no_grad()
def disentanglement(model: Autoencoder) -> Disentanglement:
    """DCI of the posterior's means, fitted on training images and read on test images."""
    generator = torch.Generator().manual_seed(17)
    images, factors = shapes.batch(FITTED, "train", generator)
    test_images, test_factors = shapes.batch(MEASURED, "test", generator)
    codes, test_codes = (
        torch.cat([model.encoder(part)[0] for part in x.split(256)]) for x in (images, test_images)
    )
    return dci(codes, factors, test_codes, test_factors)


def scores(found: Disentanglement) -> dict[str, float]:
    """The three numbers of a `Disentanglement`, rounded."""
    return {
        "disentanglement": round(found.disentanglement, 4),
        "completeness": round(found.completeness, 4),
        "informativeness": round(found.informativeness, 4),
    }


def held_by(found: Disentanglement) -> dict[str, str]:
    """By number of the latent, the factor that it helps to read most, and its share."""
    names = list(shapes.FACTORS)
    table = {}
    for i, row in enumerate(found.importances):
        share = row / max(float(row.sum()), 1e-12)
        table[str(i)] = f"{names[int(share.argmax())]} {share.max():.2f}"
    return table


@torch.no_grad()
def scale_of(model: Autoencoder) -> float:
    """The logistic's scale that fits draws from the posteriors of validation images best."""
    generator = torch.Generator().manual_seed(18)
    images, _ = shapes.batch(MEASURED, "validation", generator)
    mean, log_variance = model.encoder(images)
    noise = torch.randn(mean.shape, generator=generator)
    return fit_logistic_scale(images, model.decoder(gaussian_sample(mean, log_variance, noise)))


@torch.no_grad()
def quality(model: Autoencoder, scale: float) -> dict[str, Any]:
    """Reconstruction, bound and activity on 1,024 images of the test split."""
    generator = torch.Generator().manual_seed(14)
    images, factors = shapes.batch(MEASURED, "test", generator)
    mean, log_variance = model.encoder(images)
    kl = kl_to_standard_normal(mean, log_variance)
    noise = torch.randn(mean.shape, generator=generator)
    drawn = model.decoder(gaussian_sample(mean, log_variance, noise))
    nats = observed_log_likelihood(images, drawn, scale)
    reconstruction = model.decoder(mean)
    return {
        "reconstruction_psnr_db": round(peak_signal_to_noise(reconstruction, images), 2),
        "elbo_bits_per_dim": round(float(bits_per_dim(nats - kl, PIXELS).mean()), 4),
        "kl_nats": round(float(kl.mean()), 2),
        "active_latents": int((nats_by_latent(mean, log_variance) > ACTIVE_NATS).sum()),
        "reconstruction_factor_accuracy": judge.factor_accuracy(reconstruction, factors),
    }


def nats_by_latent(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean divergence of every number of the latent from N(0, 1): ``[latent]``."""
    return (0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)).mean(0)


def measure(trained: Trained, scale: float) -> tuple[dict[str, Any], Disentanglement]:
    """The numbers of the card: the model's, then the plain VAE's."""
    found, plain = disentanglement(trained.model), disentanglement(trained.plain)
    compared = quality(trained.plain, scale_of(trained.plain))
    numbers = {
        "dci": scores(found),
        "plain_vae_dci": scores(plain),
        "beta": BETA,
        "latent_holds": held_by(found),
        **quality(trained.model, scale),
        "plain_vae": {
            name: compared[name]
            for name in ("reconstruction_psnr_db", "elbo_bits_per_dim", "kl_nats")
        },
        "images": MEASURED,
    }
    return numbers, found


@torch.no_grad()
def sheet(model: Autoencoder) -> Tensor:
    """Test images above their reconstructions, samples, then a strip along each number."""
    generator = torch.Generator().manual_seed(15)
    images, _ = shapes.batch(SHEET_COLUMNS, "test", generator)
    means, log_variance = model.encoder(images)
    strength = nats_by_latent(means, log_variance)
    samples = model.decoder(torch.randn(SHEET_COLUMNS, LATENT, generator=generator))
    strips = []
    for number in strength.argsort(descending=True).tolist():
        z = means[:1].repeat(SHEET_COLUMNS, 1)
        z[:, number] = torch.linspace(-REACH, REACH, SHEET_COLUMNS)
        strips.append(model.decoder(z))
    return torch.cat([images, model.decoder(means), samples, *strips])


def package(trained: Trained) -> Package:
    """The networks with their numbers, card and traversals."""
    model, scale = trained.model, round(scale_of(trained.model), 4)
    numbers, _ = measure(trained, scale)
    return Package(
        id="shapes-beta-vae",
        family="vae",
        description="beta-VAE of colored shapes at 32x32: single numbers of its latent can be "
        "moved by themselves.",
        networks=[
            NetworkExport(
                name="encoder",
                architecture="convolutional_encoder",
                module=model.encoder,
                inputs={"image": Input((3, 32, 32), "image")},
                config=CONFIG,
            ),
            NetworkExport(
                name="decoder",
                architecture="convolutional_decoder",
                module=model.decoder,
                inputs={"z": Input((LATENT,))},
                config=CONFIG,
            ),
        ],
        options={
            "latent": {"shape": [LATENT]},
            "observation": {"distribution": "discretized_logistic", "scale": scale},
        },
        metrics=numbers,
        card=card(trained.summary),
        sheet=sheet(model),
        sheet_columns=SHEET_COLUMNS,
    )


def card(summary: str) -> Card:
    """The model card's words."""
    return Card(
        title="shapes-beta-vae",
        summary=f"A beta-VAE (beta {BETA:g}) of one colored shape on a flat background at 32x32. "
        "The sheet shows held-out images above their reconstructions, a row of samples from the "
        "prior, then a strip for each number of the latent, moved from -2 to 2 by itself, the "
        "most informative first.",
        data=shapes.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread, for this model and a plain VAE "
        f"together: Gaussian pixels of standard deviation {PIXEL_NOISE:g} (of the range -1 to 1), "
        f"the divergence weighted by beta, which rises to {BETA:g} over the first fifth. The plain "
        "VAE saw the same images and the same noise from the same first weights, with beta 1; it "
        "is not published. The observation's scale is fitted to validation images afterwards.",
        measured="On images of the test split, whose factor combinations were never trained on. "
        "`dci` is disentanglement, completeness and informativeness (Eastwood and Williams, 2018) "
        "of the posterior's means with random forests, 1 being best; `plain_vae_dci` the same of "
        "the plain VAE. `latent_holds` names the factor that each number helps to read most, with "
        "the share of its importance. The bound takes one draw from each posterior, in bits per "
        "subpixel of the 8-bit image.",
        limits=(
            "What beta gains in disentanglement it pays in reconstruction: compare "
            "`reconstruction_psnr_db` and `elbo_bits_per_dim` with `plain_vae`.",
            "Shapes come out round and soft: ten numbers under pressure keep place, color and "
            "background before corners.",
            "Color is three numbers of light and eight names, so that no single number holds it.",
            "A lower bound on the likelihood, no exact value.",
            "Made images for tests and demonstrations; no photographs, no people.",
        ),
        recipe="model_store.recipes.shapes_beta_vae",
        pipeline_tag="unconditional-image-generation",
        dataset="atelier/captioned-shapes",
        tags=("vae", "beta-vae", "disentanglement"),
    )


def main() -> None:
    """Train, measure, export and package the model, then add its reference likelihoods."""
    options = arguments(__doc__ or "", minutes=15)
    publish(package(train(options)))
    add_reference("shapes-beta-vae")


if __name__ == "__main__":
    main()
