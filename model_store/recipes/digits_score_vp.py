"""Train the score model of handwritten digits: ``python -m model_store.recipes.digits_score_vp``.

The variance-preserving SDE of Song et al. (2021, arXiv:2011.13456, eq. 11), told its time as a real
number and trained by likelihood.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from model_store.architectures.patch_denoiser import PatchDenoiser
from model_store.evaluation import probability_flow, sampled
from model_store.evaluation.likelihood import bits_per_dim, histogram_bits_per_dim
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_quality, digits
from model_store.recipes.early_stopping import Settings, fit
from model_store.recipes.reference import add_reference
from model_store.recipes.training import arguments
from services.sampling.ode import point_at
from services.sampling.samplers import make_plan
from services.sampling.schedule import VariancePreserving

ID = "digits-score-vp"
MINUTES = 9.0
BATCH = 128
PEAK_RATE = 2e-3
TIMES = 1000
SHIFT_CHANCE = 0.1
CHECK_EVERY = 100
SHAPE = (1, digits.SIDE, digits.SIDE)
SCHEDULE = VariancePreserving(num_train_timesteps=TIMES)
CONFIG: dict[str, Any] = {
    "channels": 1,
    "width": 64,
    "blocks": 3,
    "style": 96,
    "patch": 2,
    "times": TIMES,
    "dropout": 0.1,
}
DEFAULTS: dict[str, Any] = {"sampler": "predictor_corrector", "steps": 25, "guidance_scale": 1.0}
SAMPLES = 240
ODE_STEPS, ODE_PROBES = 24, 1
PLACES = 4096
"""Levels that training draws from, even in the logarithm of ``sigma / alpha``."""


def levels() -> Tensor:
    """Time, signal level and noise level at `PLACES` places of the way: ``[PLACES, 3]``."""
    places = [point_at(SCHEDULE, i / (PLACES - 1)) for i in range(PLACES)]
    return torch.tensor([(p.time, p.alpha, p.sigma) for p in places], dtype=torch.float32)


def loss_of(network: nn.Module, x: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the noise at levels that are even in the log signal-to-noise ratio.

    So drawn it is the variational bound up to a constant (Kingma et al., 2021, eq. 17), and the
    likelihood weighting of Song et al. (2021, arXiv:2101.09258, eq. 7). One level falls into each
    of as many equal parts of the way as there are images, for a steadier sum.
    """
    count = len(x)
    ways = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t, alpha, sigma = known[(ways * PLACES).long().clamp(max=PLACES - 1)].unbind(1)
    noise = torch.randn(x.shape, generator=generator)
    state = alpha.view(-1, 1, 1, 1) * x + sigma.view(-1, 1, 1, 1) * noise
    return (network(state, t) - noise).square().mean()


def train(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Train until the time is spent; the averaged weights that did best on validation."""
    known = levels()
    images, _ = digits.levels("train")
    held_out = digits.signed(torch.cat([digits.dequantized("validation", seed=s) for s in (6, 7)]))

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        x = digits.signed(digits.augmented(images[rows], generator, chance=SHIFT_CHANCE))
        return loss_of(network, x, known, generator)

    return fit(
        ID,
        PatchDenoiser(**CONFIG),
        loss,
        lambda network: loss_of(network, held_out, known, torch.Generator().manual_seed(9)),
        options,
        Settings(PEAK_RATE, CHECK_EVERY),
    )


def samples_of(network: nn.Module, sampler: str, steps: int) -> Tensor:
    """`SAMPLES` images in [-1, 1] by one of the service's samplers."""
    plan = make_plan(sampler, SCHEDULE, steps)
    return sampled.sample(network, plan, "epsilon", (SAMPLES, *SHAPE), seed=18)


def ode_bits_per_dim(network: nn.Module) -> Tensor:
    """Bits per dimension of the 8-bit test images, ``[ODE_PROBES, n]``; a bin is 2 / 256 wide."""
    width = digits.DIMENSIONS * float(torch.tensor(2 / 256).log())
    rows = []
    for i in range(ODE_PROBES):
        x = digits.signed(digits.dequantized("test", seed=100 + i))
        nats = probability_flow.log_likelihood(
            network, x, SCHEDULE, "epsilon", steps=ODE_STEPS, seed=200 + i
        )
        rows.append(bits_per_dim(nats + width))
    return torch.stack(rows)


def measure(network: nn.Module, samples: Tensor) -> dict[str, Any]:
    """The ODE's likelihood against the histogram baseline, and how good samples are."""
    bits = ode_bits_per_dim(network)
    flow = digit_quality.quality(samples_of(network, "heun", DEFAULTS["steps"]))
    split = [digits.levels(split)[0].flatten(1) for split in ("train", "test")]
    return {
        "bits_per_dim_ode": round(float(bits.mean()), 4),
        "bits_per_dim_ode_standard_error": round(
            float(bits.mean(dim=0).std() / bits.shape[1] ** 0.5), 4
        ),
        "baseline_histogram_bits_per_dim": round(
            histogram_bits_per_dim(*split, levels=digits.LEVELS, prior=0.1), 4
        ),
        "images": bits.shape[1],
        **digit_quality.quality(samples),
        "probability_flow_readers_agree": flow["readers_agree"],
        "probability_flow_precision": flow["precision"],
        "probability_flow_recall": flow["recall"],
    }


def package(network: nn.Module, summary: str) -> Package:
    """The denoiser with its numbers, card and samples."""
    samples = samples_of(network, DEFAULTS["sampler"], DEFAULTS["steps"])
    return Package(
        id=ID,
        family="diffusion",
        description="Score model of handwritten digits at 8x8: the variance-preserving SDE, "
        "sampled by predictor and corrector or along the probability-flow ODE.",
        networks=[
            NetworkExport(
                name="denoiser",
                architecture="patch_denoiser",
                module=network,
                inputs={"x": Input(SHAPE), "t": Input((), "time", TIMES - 1)},
                config=CONFIG,
            )
        ],
        options={
            "prediction_type": "epsilon",
            "schedule": {"type": "variance_preserving", "num_train_timesteps": TIMES},
            "defaults": DEFAULTS,
        },
        metrics=measure(network, samples),
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
        summary="A score model of 8x8 handwritten digits in continuous time: the "
        "variance-preserving SDE. Sampler `predictor_corrector` solves the reverse SDE; `heun`, "
        "`euler` and the other deterministic ones follow the probability-flow ODE, which also "
        "gives likelihoods (`method: ode`). The sheet shows samples of the defaults.",
        data=digits.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread: the noise is predicted (the score "
        "is minus that over sigma) at levels drawn evenly in the log signal-to-noise ratio, which "
        "is training by likelihood; AdamW, channel dropout, a tenth of the images moved by one "
        "pixel, fresh dequantisation noise, averaged or last weights, early stopping on the "
        "validation split.",
        measured="`bits_per_dim_ode`: the test split, one dequantisation of every image, the ODE "
        f"in {ODE_STEPS} steps of Runge and Kutta, one probe each; per pixel of the 8-bit form. It "
        f"is an estimate, not a bound. {digit_quality.WORDS} `probability_flow_...` are the same "
        f"by `heun` with {DEFAULTS['steps']} steps.",
        limits=(
            "Which digit is made cannot be asked for.",
            "A likelihood is no measure of how good a digit is.",
            "1,257 images are few: samples stay close to what was seen.",
        ),
        recipe="model_store.recipes.digits_score_vp",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("diffusion", "score-sde", "likelihood"),
    )


def main() -> None:
    """Train, measure, export and package the model, then add its reference likelihoods."""
    options = arguments(__doc__ or "", minutes=MINUTES)
    publish(package(*train(options)))
    add_reference(ID)


if __name__ == "__main__":
    main()
