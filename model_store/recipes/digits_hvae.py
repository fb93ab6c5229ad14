"""Train the hierarchical VAE of handwritten digits: ``python -m model_store.recipes.digits_hvae``.

Beside it a flat VAE is trained: one level of as many numbers, in networks of about as many weights,
by the same loop for as long. It is not published: what levels buy is measured against it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from model_store.architectures.hierarchical_vae import (
    HierarchicalDecoder,
    HierarchicalEncoder,
    Ladder,
)
from model_store.evaluation.likelihood import observed_log_likelihood
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_quality, digits
from model_store.recipes.digit_flows import stored
from model_store.recipes.early_stopping import Settings, fit
from model_store.recipes.reference import add_reference
from model_store.recipes.training import arguments
from services.sampling.bounds import (
    bits_per_dim,
    gaussian_log_density,
    importance_weighted_bound,
    kl_to_standard_normal,
    standard_normal_log_density,
)

ID = "digits-hvae"
BATCH = 128
SHIFT_CHANCE = 0.3
LEVELS = (4, 8, 16)
CONFIG: dict[str, Any] = {"latents": list(LEVELS), "width": 96, "dropout": 0.1}
FLAT_CONFIG: dict[str, Any] = {"latents": [sum(LEVELS)], "width": 160, "dropout": 0.1}
SETTINGS = Settings(3e-3, 100, weight_decay=2e-2, decay=0.995)
WARM_UP_STEPS = 1000
FREE_NATS = 0.2
"""Divergence for each number of a level that costs nothing (Kingma et al., 2016, arXiv:1606.04934,
appendix C8): below it nothing pulls a level to its prior, so none is given up before it is used."""
COOL = 0.3
FIRST_SCALE, LEAST_SCALE = 12.0, 0.5
LARGEST = 255.0
DRAWS = 10
IMPORTANCE_SAMPLES = 64
SAMPLES = 360
SHEET_COLUMNS = 16
IMAGE = (1, digits.SIDE, digits.SIDE)


class Model(nn.Module):
    """A ladder with its observation model, in training."""

    steps: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        """Build from fixed first weights."""
        super().__init__()
        torch.manual_seed(0)
        self.ladder = Ladder(**config)
        self.log_scale = nn.Parameter(torch.full(IMAGE, FIRST_SCALE).log())
        self.register_buffer("steps", torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """Of the logistic around each pixel, in steps of 255: ``[1, 8, 8]``."""
        return self.log_scale.exp().clamp(min=LEAST_SCALE)

    def terms(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For one draw: ``log p(x | z)`` ``[n]``, each level's divergence ``[n, levels]``, weights.

        The weights are ``log p(x, z) - log q(z | x)``, ``[n]``; all in nats.
        """
        z, mean, log_variance = self.ladder.infer(image, noise)
        nats = observed_log_likelihood(image, self.ladder.decode(z), self.scale)
        sizes = self.ladder.latents
        levels = zip(mean.split(sizes, 1), log_variance.split(sizes, 1), strict=True)
        kl = torch.stack([kl_to_standard_normal(*level) for level in levels], 1)
        density = gaussian_log_density(z, mean, log_variance)
        return nats, kl, nats + standard_normal_log_density(z) - density

    @property
    def numbers(self) -> int:
        """How many there are in one latent."""
        return sum(self.ladder.latents)


class Trained(NamedTuple):
    """A trained model, and how long it took."""

    model: Model
    summary: str


def images_of(split: digits.Split, seed: int) -> Tensor:
    """A split's images as 8-bit files hold them, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return digits.to_8_bit(digits.levels(split)[0], generator) * (2 / LARGEST) - 1


def train(name: str, config: dict[str, Any], options: argparse.Namespace) -> Trained:
    """Maximise the evidence lower bound until the time is spent; the best on validation."""
    levels, _ = digits.levels("train")
    held_out = torch.cat([images_of("validation", seed) for seed in range(6, 12)])
    model = Model(config)
    still = torch.randn(len(held_out), model.numbers, generator=torch.Generator().manual_seed(9))

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        found = cast(Model, network)
        found.steps += 1
        rows = torch.randint(len(levels), (BATCH,), generator=generator)
        moved = digits.shift(levels[rows], generator, chance=SHIFT_CHANCE)
        image = digits.to_8_bit(moved, generator) * (2 / LARGEST) - 1
        noise = torch.randn(BATCH, found.numbers, generator=generator)
        nats, kl, _ = found.terms(image, noise)
        warm_up = float((found.steps / WARM_UP_STEPS).clamp(max=1.0))
        paid = with_free_nats(kl, found.ladder.latents)
        return (warm_up * paid - nats.mean()) / digits.DIMENSIONS

    def validate(network: nn.Module) -> Tensor:
        nats, kl, _ = cast(Model, network).terms(held_out, still)
        return (kl.sum(1) - nats).mean() / digits.DIMENSIONS

    found, summary = fit(name, model, loss, validate, options, SETTINGS)
    return Trained(cast(Model, stored(found)), summary)


def with_free_nats(kl: Tensor, sizes: Sequence[int]) -> Tensor:
    """The batch's mean divergence, where each level counts for `FREE_NATS` a number or more.

    Args:
        kl: of each row and level, ``[n, levels]``, in nats.
        sizes: of the levels.

    Returns:
        A scalar, in nats.
    """
    return torch.maximum(kl.mean(0), FREE_NATS * torch.tensor(sizes, dtype=kl.dtype)).sum()


@torch.no_grad()
def bounds(model: Model) -> dict[str, Any]:
    """ELBO and importance-weighted bound of the test split, and each level's divergence."""
    elbos, kls, tight = [], [], []
    for draw in range(DRAWS):
        images = images_of("test", seed=100 + draw)
        generator = torch.Generator().manual_seed(300 + draw)
        weights = []
        for _ in range(IMPORTANCE_SAMPLES):
            noise = torch.randn(len(images), model.numbers, generator=generator)
            nats, kl, weight = model.terms(images, noise)
            weights.append(weight)
        elbos.append(float((nats - kl.sum(1)).mean()))
        kls.append(kl.mean(0))
        tight.append(float(importance_weighted_bound(torch.stack(weights, 1))[0].mean()))
    elbo, iwae = torch.tensor(elbos), torch.tensor(tight)
    return {
        "elbo_bits_per_dim": _bits(elbo.mean()),
        "iwae_bits_per_dim": _bits(iwae.mean()),
        "iwae_standard_error_bits": round(
            float(bits_per_dim(-iwae.std() / DRAWS**0.5, digits.DIMENSIONS)), 4
        ),
        "kl_nats_by_level": [round(float(v), 2) for v in torch.stack(kls).mean(0)],
    }


def _bits(nats: Tensor) -> float:
    return round(float(bits_per_dim(nats, digits.DIMENSIONS)), 4)


@torch.no_grad()
def samples(model: Model, count: int, temperatures: Sequence[float], seed: int) -> Tensor:
    """Images from the prior, each level at its own temperature."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, model.numbers, generator=generator)
    each = torch.tensor(temperatures).repeat_interleave(torch.tensor(model.ladder.latents))
    return model.ladder.decode(z * each)


@torch.no_grad()
def reconstructions(model: Model, images: Tensor, levels: int) -> Tensor:
    """Reconstructions from the topmost ``levels`` levels; those below at the prior's mean."""
    noise = torch.zeros(len(images), model.numbers)
    z, _, _ = model.ladder.infer(images, noise)
    z[:, sum(model.ladder.latents[:levels]) :] = 0
    return model.ladder.decode(z)


@torch.no_grad()
def measure(trained: Trained, flat: Trained) -> dict[str, Any]:
    """The numbers of the card: the model's, then the flat VAE's."""
    model, images = trained.model, images_of("test", seed=100)
    top_down = range(1, len(LEVELS) + 1)
    compared = bounds(flat.model)
    del compared["kl_nats_by_level"]
    return {
        **bounds(model),
        "flat_vae": {**compared, "weights": weights_of(flat.model)},
        "weights": weights_of(model),
        "reconstruction_psnr_db_by_levels_read": [
            round(peak_signal_to_noise(reconstructions(model, images, n), images), 2)
            for n in top_down
        ],
        **digit_quality.quality(samples(model, SAMPLES, [1.0] * len(LEVELS), seed=16)),
        "images": len(images),
    }


def weights_of(model: Model) -> int:
    """How many numbers were learned."""
    return sum(p.numel() for p in model.ladder.parameters())


@torch.no_grad()
def sheet(model: Model) -> Tensor:
    """Samples at falling temperatures, images and reconstructions by levels, each level varied."""
    generator = torch.Generator().manual_seed(15)
    images = images_of("test", seed=100)[:SHEET_COLUMNS]
    warm = range(len(LEVELS), 0, -1)
    rows = [
        samples(model, SHEET_COLUMNS, [1.0] * n + [COOL] * (len(LEVELS) - n), seed=16) for n in warm
    ]
    rows.append(images)
    rows += [reconstructions(model, images, n + 1) for n in range(len(LEVELS))]
    z = torch.randn(1, model.numbers, generator=generator).repeat(SHEET_COLUMNS, 1)
    start = 0
    for size in LEVELS:
        varied = z.clone()
        varied[:, start : start + size] = torch.randn(SHEET_COLUMNS, size, generator=generator)
        rows.append(model.ladder.decode(varied))
        start += size
    return torch.cat(rows)


def package(trained: Trained, flat: Trained) -> Package:
    """The networks with their numbers, card and samples."""
    model = trained.model
    encoder, decoder = HierarchicalEncoder(**CONFIG), HierarchicalDecoder(**CONFIG)
    for network in (encoder, decoder):
        network.load_state_dict(model.ladder.state_dict())
    scale = [round(float(v), 4) for v in model.scale.detach().flatten()]
    metrics = measure(trained, flat)
    return Package(
        id=ID,
        family="vae",
        description=f"Hierarchical VAE of handwritten digits at 8x8: {len(LEVELS)} stochastic "
        "levels, top-down inference.",
        networks=[
            NetworkExport(
                name="hierarchical_encoder",
                architecture="hierarchical_encoder",
                module=encoder.eval(),
                inputs={"image": Input(IMAGE, "image"), "noise": Input((model.numbers,))},
                config=CONFIG,
                weights="ladder",
            ),
            NetworkExport(
                name="decoder",
                architecture="hierarchical_decoder",
                module=decoder.eval(),
                inputs={"z": Input((model.numbers,))},
                config=CONFIG,
                weights="ladder",
            ),
        ],
        options={
            "latent": {"shape": [model.numbers]},
            "levels": list(LEVELS),
            "observation": {"distribution": "discretized_logistic", "scale": scale},
        },
        metrics=metrics,
        card=card(trained.summary, flat.summary, metrics),
        sheet=sheet(model),
        sheet_columns=SHEET_COLUMNS,
        sheet_zoom=5,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
    )


def beside_flat(metrics: Mapping[str, Any]) -> str:
    """Which of the two bounds is the better one, in words."""
    own, flat = metrics["iwae_bits_per_dim"], metrics["flat_vae"]["iwae_bits_per_dim"]
    verdict = "better" if own < flat else "worse"
    return f"The bound is {verdict} than that of a flat VAE of as many weights: {own} and {flat}."


def card(summary: str, flat_summary: str, metrics: Mapping[str, Any]) -> Card:
    """The model card's words."""
    sizes = ", ".join(str(size) for size in LEVELS)
    return Card(
        title=ID,
        summary=f"A hierarchical VAE of 8x8 handwritten digits with {len(LEVELS)} stochastic "
        f"levels of {sizes} numbers, from the top down; inference goes down the same ladder "
        "(Sonderby et al., 2016), each posterior told relative to its prior (Vahdat and Kautz, "
        "2020). The sheet shows a row of samples, the same with the lowest level at a temperature "
        f"of {COOL:g} and with the lower two, held-out images, their reconstructions from the top "
        "level alone, from two levels and from all, then one sample with the top level drawn anew, "
        "with the middle one, and with the lowest.",
        data=digits.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread on the evidence lower bound, the "
        f"divergence's weight rising to 1 over {WARM_UP_STEPS:,} steps and {FREE_NATS:g} nats a "
        "number free: AdamW, dropout, "
        f"{SHIFT_CHANCE:.0%} of the images moved by one pixel, averaged weights, early stopping by "
        "the bound of the validation split. A discretised logistic with one learned scale for each "
        f"pixel. The flat VAE, one level of {sum(LEVELS)} numbers, was trained by the same loop "
        f"({flat_summary}) and is not published.",
        measured="On the test split with the weights as they are stored, in half precision. The "
        f"bounds are in bits per pixel of the 8-bit form, means of {DRAWS} draws of the levels' "
        f"spread, `iwae` with {IMPORTANCE_SAMPLES} samples of the posterior; lower is better, and "
        "`flat_vae` is the flat VAE's. `kl_nats_by_level` is what each level is told of an image, "
        f"from the top down. {digit_quality.WORDS}",
        limits=(
            "Lower bounds on the likelihood, no exact values.",
            beside_flat(metrics),
            "Some samples are no readable digit: 1,257 images are few.",
            "Latents are in units of the prior given the levels above: the same numbers of a lower "
            "level mean another thing under another top level.",
        ),
        recipe="model_store.recipes.digits_hvae",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("vae", "hierarchical-vae"),
    )


def main() -> None:
    """Train both, measure, export and package the hierarchical one, then add its reference."""
    options = arguments(__doc__ or "", minutes=3)
    trained = train(ID, CONFIG, options)
    publish(package(trained, train(f"{ID}-flat", FLAT_CONFIG, options)))
    add_reference(ID)


if __name__ == "__main__":
    main()
