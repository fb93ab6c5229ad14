"""Train the pixel diffusion of handwritten digits: ``python -m model_store.recipes.digits_ddpm``.

DDPM (Ho et al., 2020, arXiv:2006.11239) with the cosine schedule of Nichol and Dhariwal (2021,
arXiv:2102.09672), on images at their own 8x8.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model_store.architectures.pixel_denoiser import PixelDenoiser
from model_store.evaluation import ddpm, sampled
from model_store.evaluation.likelihood import bits_per_dim, histogram_bits_per_dim
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import digit_quality, digits, digits_noisy_classifier
from model_store.recipes.early_stopping import Settings, fit
from model_store.recipes.reference import add_reference
from model_store.recipes.training import arguments
from services.sampling.classifier_guidance import class_cotangent, shifted
from services.sampling.plan import Plan
from services.sampling.samplers import make_plan
from services.sampling.schedule import VariancePreserving

MINUTES = 18.0
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
SCHEDULE = VariancePreserving(num_train_timesteps=TIMES, beta_schedule="squaredcos_cap_v2")
DEFAULTS: dict[str, Any] = {"sampler": "ddpm", "steps": 50, "guidance_scale": 1.0}
SAMPLES = 240
GUIDED, CLASSIFIER_SCALE = 200, 4.0
"""Digits that are asked for, to measure whether they come; the scale was chosen on others."""
EVERY = 8
"""Of the 1,000 terms of the bound, one in so many is drawn and counts for all of them."""
CLIP = 1.0
"""Denoised images are held in the images' range: near pure noise they would leave it far."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The networks, and how long they were trained."""

    network: nn.Module
    classifier: nn.Module
    summary: str


def loss_of(network: nn.Module, x: Tensor, signal: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the noise at random times (Ho et al., 2020, eq. 14)."""
    t = torch.randint(TIMES, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    level = signal[t].view(-1, 1, 1, 1)
    predicted = network(level.sqrt() * x + (1 - level).sqrt() * noise, t.float())
    return (predicted - noise).square().mean()


def train(options: argparse.Namespace) -> Trained:
    """Train until the time is spent; the averaged weights that did best on validation."""
    signal = ddpm.cosine_signal(TIMES)
    images, _ = digits.levels("train")
    held_out = digits.signed(
        torch.cat([digits.dequantized("validation", seed=s) for s in range(8)])
    )

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        x = digits.signed(digits.augmented(images[rows], generator, chance=SHIFT_CHANCE))
        return loss_of(network, x, signal, generator)

    denoiser, summary = fit(
        "digits-ddpm",
        PixelDenoiser(**CONFIG),
        loss,
        lambda network: loss_of(network, held_out, signal, torch.Generator().manual_seed(9)),
        options,
        Settings(PEAK_RATE, CHECK_EVERY),
    )
    return Trained(denoiser, digits_noisy_classifier.train(options, signal), summary)


def bound_of(network: nn.Module, split: digits.Split) -> Tensor:
    """Nats of the 8-bit images of a split, at least, ``[n]``.

    A pixel's value covers ``2 / 256`` of [-1, 1].
    """
    signal = ddpm.cosine_signal(TIMES)
    x = digits.signed(digits.dequantized(split, seed=100))
    width = float(torch.tensor(2 / 256).log())
    return ddpm.bound(network, x, signal, seed=17, every=EVERY) + digits.DIMENSIONS * width


def samples_of(network: nn.Module, plan: Plan) -> Tensor:
    """`SAMPLES` images in [-1, 1], unguided."""
    shape = (SAMPLES, *SHAPE)
    return sampled.sample(network, plan, "epsilon", shape, seed=18, clip=CLIP)


def guided(trained: Trained, wanted: Tensor, *, scale: float, seed: int) -> Tensor:
    """Images in [-1, 1] guided by the classifier to the digits ``wanted``, ``[n]``."""

    def guide(denoised: Tensor, x: Tensor, time: float, alpha: float, sigma: float) -> Tensor:
        told = x.clone().requires_grad_()
        with torch.enable_grad():
            logits = trained.classifier(told, torch.full((len(x),), time))
            cotangent = class_cotangent(logits.detach(), wanted)
            (gradients,) = torch.autograd.grad(logits, told, cotangent)
        levels = [torch.full((len(x),), v, dtype=torch.float64) for v in (scale, alpha, sigma)]
        return shifted(denoised, gradients, *levels)

    plan = make_plan(DEFAULTS["sampler"], SCHEDULE, DEFAULTS["steps"])
    shape = (len(wanted), *SHAPE)
    return sampled.sample(
        trained.network, plan, "epsilon", shape, seed=seed, guide=guide, clip=CLIP
    )


def measure(trained: Trained, samples: Tensor, asked: Tensor, drawn: Tensor) -> dict[str, Any]:
    """The bound against the histogram baseline, how good samples are, whether guidance guides.

    Args:
        trained: the networks.
        samples: unguided.
        asked: digits, ``[n]``.
        drawn: what guidance to them made.
    """
    split = [digits.levels(split)[0].flatten(1) for split in ("train", "test")]
    test, target = digits.levels("test")
    real = digits.signed((test + 0.5) / digits.LEVELS)
    bits = bits_per_dim(bound_of(trained.network, "test"))
    return {
        "bits_per_dim_bound": round(float(bits.mean()), 4),
        "bits_per_dim_bound_standard_error": round(float(bits.std() / len(bits) ** 0.5), 4),
        "baseline_histogram_bits_per_dim": round(
            histogram_bits_per_dim(*split, levels=digits.LEVELS, prior=0.1), 4
        ),
        "images": len(test),
        **digit_quality.quality(samples),
        "condition_accuracy": round(float((digit_quality.read(drawn) == asked).float().mean()), 4),
        "condition_samples": len(asked),
        "reader_accuracy_on_real_digits": round(
            float((digit_quality.read(real) == target).float().mean()), 4
        ),
        **digits_noisy_classifier.measure(trained.classifier, ddpm.cosine_signal(TIMES)),
    }


def package(trained: Trained) -> Package:
    """The denoiser and the classifier with their numbers, card and samples."""
    samples = samples_of(trained.network, make_plan("ddpm", SCHEDULE, DEFAULTS["steps"]))
    asked = torch.arange(GUIDED) % digits.CLASSES
    drawn = guided(trained, asked, scale=CLASSIFIER_SCALE, seed=19)
    inputs = {"x": Input(SHAPE), "t": Input((), "time", TIMES - 1)}
    return Package(
        id="digits-ddpm",
        family="diffusion",
        description="DDPM of handwritten digits at 8x8, in pixels: unconditional, or guided to a "
        "digit by a classifier of noisy images.",
        networks=[
            NetworkExport(
                name="denoiser",
                architecture="pixel_denoiser",
                module=trained.network,
                inputs=inputs,
                config=CONFIG,
            ),
            NetworkExport(
                name="classifier",
                architecture="noisy_classifier",
                module=trained.classifier,
                inputs=inputs,
                config=digits_noisy_classifier.CONFIG,
            ),
        ],
        options={
            "prediction_type": "epsilon",
            "schedule": {
                "type": "variance_preserving",
                "num_train_timesteps": TIMES,
                "beta_schedule": "squaredcos_cap_v2",
            },
            "clip_sample": CLIP,
            "classifier": {
                "labels": [str(digit) for digit in range(digits.CLASSES)],
                "scale": CLASSIFIER_SCALE,
            },
            "defaults": DEFAULTS,
        },
        metrics=measure(trained, samples, asked, drawn),
        card=card(trained.summary),
        sheet=torch.cat([samples[:80], drawn.view(-1, 10, *SHAPE)[:8].flatten(0, 1)]).clamp(-1, 1),
        sheet_columns=10,
        sheet_zoom=5,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
        pixel_range=(-1.0, 1.0),
    )


def card(summary: str) -> Card:
    """The model card's words."""
    return Card(
        title="digits-ddpm",
        summary="A denoising diffusion model of 8x8 handwritten digits, in pixels, and a "
        "classifier of noisy digits that guides it to the one that `label` names (classifier "
        "guidance: Dhariwal and Nichol, 2021). The sheet shows eight rows without a label, then "
        "eight of 0 to 9, all by the default sampler.",
        data=digits.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread: noise prediction, cosine "
        "schedule, AdamW, channel dropout, a fifth of the images moved by one pixel, fresh "
        "dequantisation noise, averaged or last weights, early stopping on the validation split. "
        + digits_noisy_classifier.WORDS,
        measured="`bits_per_dim_bound`: the variational bound of every test image, one term in "
        f"{EVERY} of 1,000 drawn, per pixel of the 8-bit form; spreading 17 levels over 256 values "
        f"alone costs 3.91 bits. {digit_quality.WORDS} `condition_accuracy`: of "
        f"{GUIDED} digits asked for with the defaults (`classifier_scale` {CLASSIFIER_SCALE:g}), "
        "the share that a support vector machine reads as asked; it was fitted to clean training "
        "images and has no part in guidance.",
        limits=(
            "The likelihood is a lower bound, and no measure of how good a digit is.",
            "A large `classifier_scale` makes the digit surer and its shapes more alike.",
            "1,257 images are few: samples stay close to what was seen.",
        ),
        recipe="model_store.recipes.digits_ddpm",
        pipeline_tag="unconditional-image-generation",
        dataset="scikit-learn/load_digits",
        tags=("diffusion", "ddpm", "classifier-guidance", "likelihood"),
    )


def main() -> None:
    """Train, measure, export and package the model, then add its reference likelihoods."""
    publish(package(train(arguments(__doc__ or "", minutes=MINUTES))))
    add_reference("digits-ddpm")


if __name__ == "__main__":
    main()
