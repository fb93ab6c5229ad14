"""Train the pixel diffusion of handwritten digits: ``python -m model_store.recipes.digits_ddpm``.

DDPM (Ho et al., 2020, arXiv:2006.11239) with the cosine schedule of Nichol and Dhariwal (2021,
arXiv:2102.09672), on images at their own 8x8.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from sklearn.svm import SVC
from torch import Tensor, nn

from model_store.architectures.pixel_denoiser import PixelDenoiser
from model_store.evaluation import ddpm, judge
from model_store.evaluation.likelihood import bits_per_dim, histogram_bits_per_dim
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digits
from model_store.recipes.reference import add_reference
from model_store.recipes.training import (
    Best,
    Run,
    arguments,
    averaged,
    learning_rate,
    set_learning_rate,
)

BATCH = 64
PEAK_RATE = 1e-3
TIMES = 1000
SHIFT_CHANCE = 0.2
CHECK_EVERY = 100
SHAPE = (1, digits.SIDE, digits.SIDE)
CONFIG: dict[str, Any] = {
    "channels": 1,
    "width": 64,
    "blocks": 4,
    "style": 128,
    "times": TIMES,
    "dropout": 0.1,
}
SAMPLES = 200
DRAWS = 1
"""Dequantisation draws that the bound on the test split is the mean of."""


def scaled(unit: Tensor) -> Tensor:
    """Images in [0, 1] to [-1, 1]."""
    return 2 * unit - 1


def loss_of(network: nn.Module, x: Tensor, signal: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the noise at random times (Ho et al., 2020, eq. 14)."""
    t = torch.randint(TIMES, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    level = signal[t].view(-1, 1, 1, 1)
    predicted = network(level.sqrt() * x + (1 - level).sqrt() * noise, t.float())
    return (predicted - noise).square().mean()


def train(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """Train until the time is spent; the averaged weights that did best on validation."""
    network = PixelDenoiser(**CONFIG)
    average = averaged(network, 0.998)
    best = Best(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    run = Run(
        "digits-ddpm",
        options.minutes,
        options.workspace,
        {"network": network, "average": average, "best": best, "optimizer": optimizer},
        fresh=options.fresh,
        export_only=options.export_only,
    )
    signal = ddpm.cosine_signal(TIMES)
    images, _ = digits.levels("train")
    held_out = scaled(torch.cat([digits.dequantized("validation", seed=s) for s in range(8)]))
    for step in run.steps():
        set_learning_rate(optimizer, learning_rate(run.progress, PEAK_RATE))
        rows = torch.randint(len(images), (BATCH,), generator=run.generator)
        moved = digits.shift(images[rows], run.generator, chance=SHIFT_CHANCE)
        x = scaled(digits.dequantize(digits.to_8_bit(moved, run.generator), run.generator))
        loss = loss_of(network, x, signal, run.generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        if step % CHECK_EVERY == 0:
            average.eval()
            with torch.no_grad():
                fixed = torch.Generator().manual_seed(9)
                validation = float(loss_of(average.module.eval(), held_out, signal, fixed))
            best.offer(average.module, validation)
            run.log(train=float(loss.detach()), validation=validation, best=float(best.loss))
    return best.network.eval(), run.summary()


def bound_of(network: nn.Module, split: digits.Split, draws: int) -> Tensor:
    """Nats of the 8-bit images of a split, at least, ``[draws * n]``.

    A pixel's value covers ``2 / 256`` of [-1, 1].
    """
    signal = ddpm.cosine_signal(TIMES)
    x = scaled(torch.cat([digits.dequantized(split, seed=100 + i) for i in range(draws)]))
    width = float(torch.tensor(2 / 256).log())
    return ddpm.bound(network, x, signal, seed=17) + digits.DIMENSIONS * width


def reader() -> SVC:
    """A support vector machine that reads digits, fitted to the training split."""
    images, target = digits.levels("train")
    return SVC(gamma=0.001, probability=False).fit(images.flatten(1).numpy(), target.numpy())


def measure(samples: Tensor, bound: Tensor) -> dict[str, Any]:
    """The bound against the histogram baseline, and how evenly samples are read as digits."""
    levels = [digits.levels(split)[0].flatten(1) for split in ("train", "test")]
    machine = reader()
    test, target = digits.levels("test")
    read = machine.predict(((samples + 1) * (digits.LEVELS / 2)).clamp(0, 16).flatten(1).numpy())
    right = machine.predict(test.flatten(1).numpy()) == target.numpy()
    return {
        "bits_per_dim_bound": round(float(bits_per_dim(bound).mean()), 4),
        "baseline_histogram_bits_per_dim": round(
            histogram_bits_per_dim(*levels, levels=digits.LEVELS, prior=0.1), 4
        ),
        "digit_evenness": round(judge.evenness(torch.from_numpy(read), 10), 4),
        "reader_accuracy_on_real_digits": round(float(right.mean()), 4),
        "images": len(test),
        "samples": len(samples),
    }


def package(network: nn.Module, summary: str) -> Package:
    """The denoiser with its numbers, card and samples."""
    samples = ddpm.sample(network, SAMPLES, SHAPE, ddpm.cosine_signal(TIMES), seed=18)
    bound = bound_of(network, "test", DRAWS)
    return Package(
        id="digits-ddpm",
        family="diffusion",
        description="Unconditional DDPM of handwritten digits at 8x8, in pixels.",
        networks=[
            NetworkExport(
                name="denoiser",
                architecture="pixel_denoiser",
                module=network,
                inputs={"x": Input(SHAPE), "t": Input((), "time", TIMES - 1)},
                config=CONFIG,
            )
        ],
        options={
            "prediction_type": "epsilon",
            "schedule": {
                "type": "variance_preserving",
                "num_train_timesteps": TIMES,
                "beta_schedule": "squaredcos_cap_v2",
            },
            "defaults": {"sampler": "ddpm", "steps": 100, "guidance_scale": 1.0},
        },
        metrics=measure(samples, bound),
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
        title="digits-ddpm",
        summary="An unconditional denoising diffusion model of 8x8 handwritten digits, in pixels. "
        "The sheet shows ancestral samples at all 1,000 training times.",
        data=digits.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread: noise prediction, cosine "
        "schedule, AdamW, channel dropout, a fifth of the images moved by one pixel, fresh "
        "dequantisation noise, averaged weights, early stopping on the validation split.",
        measured=f"The variational bound, one draw of all 1,000 terms for each of {DRAWS} "
        "dequantisations of every test image, per pixel of the 8-bit form; spreading 17 levels "
        "over 256 values alone costs 3.91 bits. `digit_evenness` is the entropy of the digits that "
        "a support vector machine, fitted to real ones, reads in the samples, over its largest.",
        limits=(
            "The likelihood is a lower bound, and no measure of how good a digit is.",
            "Which digit is made cannot be asked for.",
            "1,257 images are few: samples stay close to what was seen.",
        ),
        recipe="model_store.recipes.digits_ddpm",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("diffusion", "ddpm", "likelihood"),
    )


def main() -> None:
    """Train, measure, export and package the model, then add its reference likelihoods."""
    options = arguments(__doc__ or "", minutes=10)
    publish(package(*train(options)))
    add_reference("digits-ddpm")


if __name__ == "__main__":
    main()
