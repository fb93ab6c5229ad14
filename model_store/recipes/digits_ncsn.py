"""Train the score network of digits at many levels: ``python -m model_store.recipes.digits_ncsn``.

NCSN (Song and Ermon, 2019, arXiv:1907.05600), with the levels of their second paper (2020,
arXiv:2006.09011).
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor, nn

from model_store.architectures.patch_denoiser import ExplodingScore
from model_store.evaluation import sampled
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_quality, digits
from model_store.recipes.early_stopping import Settings, fit
from model_store.recipes.training import arguments
from services.sampling.samplers import make_plan
from services.sampling.schedule import VarianceExploding

ID = "digits-ncsn"
MINUTES = 8.0
BATCH = 64
PEAK_RATE = 2e-3
SHIFT_CHANCE = 0.1
CHECK_EVERY = 100
SHAPE = (1, digits.SIDE, digits.SIDE)
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.05, 10.0, 0.75
"""The most is the farthest that two training images lie apart, about (technique 1)."""
LEVELS = 20
LANGEVIN_STEPS = 8
STEP_SIZE = 0.4 * SIGMA_MIN**2
"""Large enough that the steps of a level wear off the noise of the one before (technique 4)."""
CONFIG: dict[str, Any] = {
    "channels": 1,
    "width": 64,
    "blocks": 3,
    "style": 96,
    "patch": 2,
    "sigmas": [SIGMA_MIN, SIGMA_MAX],
    "sigma_data": SIGMA_DATA,
    "dropout": 0.1,
}
SCHEDULE = VarianceExploding(
    sigma_min=SIGMA_MIN,
    sigma_max=SIGMA_MAX,
    langevin_steps=LANGEVIN_STEPS,
    langevin_step_size=STEP_SIZE,
)
DEFAULTS: dict[str, Any] = {
    "sampler": "annealed_langevin",
    "steps": LEVELS,
    "guidance_scale": 1.0,
}
SAMPLES = 360


def loss_of(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Denoising score matching at levels even in log sigma (Song and Ermon, 2019, eq. 5 and 6).

    Each level's loss is weighted by ``sigma^2 + sigma_data^2`` over ``sigma_data^2``, which with
    the preconditioning is the plain error of the network's body (Karras et al., 2022, eq. 8).
    """
    count = len(x)
    depth = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** depth
    wide = sigma.view(-1, 1, 1, 1)
    noise = torch.randn(x.shape, generator=generator)
    score = network(x + wide * noise, sigma)
    weight = (wide.square() + SIGMA_DATA**2) / SIGMA_DATA**2
    return (weight * (wide * score + noise).square()).mean()


def train(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Train until the time is spent; the averaged weights that did best on validation."""
    images, _ = digits.levels("train")
    held_out = digits.signed(torch.cat([digits.dequantized("validation", seed=s) for s in (6, 7)]))

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        x = digits.signed(digits.augmented(images[rows], generator, chance=SHIFT_CHANCE))
        return loss_of(network, x, generator)

    return fit(
        ID,
        ExplodingScore(**CONFIG),
        loss,
        lambda network: loss_of(network, held_out, torch.Generator().manual_seed(9)),
        options,
        Settings(PEAK_RATE, CHECK_EVERY),
    )


def samples_of(network: nn.Module, sampler: str, steps: int) -> Tensor:
    """`SAMPLES` images in [-1, 1] by one of the service's samplers."""
    plan = make_plan(sampler, SCHEDULE, steps)
    return sampled.sample(network, plan, "score", (SAMPLES, *SHAPE), seed=18)


def package(network: nn.Module, summary: str) -> Package:
    """The score network with its numbers, card and samples."""
    samples = samples_of(network, DEFAULTS["sampler"], DEFAULTS["steps"])
    return Package(
        id=ID,
        family="diffusion",
        description="Noise-conditional score network of handwritten digits at 8x8, sampled by "
        "annealed Langevin dynamics.",
        networks=[
            NetworkExport(
                name="denoiser",
                architecture="exploding_score",
                module=network,
                inputs={"x": Input(SHAPE), "t": Input((), "time", math.floor(SIGMA_MAX))},
                config=CONFIG,
            )
        ],
        options={
            "prediction_type": "score",
            "schedule": SCHEDULE.model_dump(),
            "defaults": DEFAULTS,
        },
        metrics=digit_quality.quality(samples),
        card=card(summary),
        sheet=samples[:96].clamp(-1, 1),
        sheet_columns=16,
        sheet_zoom=5,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
        pixel_range=(-1.0, 1.0),
    )


def card(summary: str) -> Card:
    """The model card's words."""
    return Card(
        title=ID,
        summary="A noise-conditional score network of 8x8 handwritten digits: noise of geometric "
        f"levels from {SIGMA_MAX:g} down to {SIGMA_MIN:g} over an image at full strength, sampled "
        f"by annealed Langevin dynamics, {LANGEVIN_STEPS} steps at each of {LEVELS} levels. The "
        "sheet shows samples of the defaults.",
        data=digits.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread: denoising score matching with "
        "preconditioning, AdamW, channel dropout, a tenth of the images moved by one pixel, fresh "
        "dequantisation noise, averaged weights, early stopping on the validation split.",
        measured=f"{SAMPLES} samples of the defaults. {digit_quality.WORDS}",
        limits=(
            "Which digit is made cannot be asked for.",
            "No likelihood is served: its noise does not end at unit variance.",
            "1,257 images are few: samples stay close to what was seen.",
        ),
        recipe="model_store.recipes.digits_ncsn",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("diffusion", "ncsn", "langevin"),
    )


def main() -> None:
    """Train, measure, export and package the model."""
    publish(package(*train(arguments(__doc__ or "", minutes=MINUTES))))


if __name__ == "__main__":
    main()
