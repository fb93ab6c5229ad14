"""What the recipes of both autoencoders of handwritten digits share: training, numbers, package."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from model_store.architectures.perceptron import PerceptronDecoder, PerceptronEncoder
from model_store.evaluation.reconstruction import peak_signal_to_noise
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package
from model_store.recipes import digits
from model_store.recipes.early_stopping import Settings, fit

BATCH = 128
SHIFT_CHANCE = 0.3
DRAWS = 10
"""Draws of the noise and of the levels' spread; a number on the test split is their mean."""
SHEET_COLUMNS = 16
IMAGE = (1, digits.SIDE, digits.SIDE)
LARGEST = 255.0


@dataclass(frozen=True, slots=True)
class AutoencoderRecipe:
    """What one autoencoder's recipe says of itself.

    Attributes:
        id: of the model.
        summary: for the card.
        description: for the manifest.
        code: numbers of the code.
        hidden: sizes of the encoder's hidden layers.
        trained_noise: standard deviation of the noise on what it saw in training, in steps of 255;
            0 for none.
        measured_noise: of the noise that it is measured, and offered, to take away.
        settings: how to train.
        training: words for the card.
        limits: for the card, beside those of both.
        tags: for the card.
    """

    id: str
    summary: str
    description: str
    code: int
    hidden: tuple[int, ...]
    trained_noise: float
    measured_noise: float
    settings: Settings
    training: str
    limits: Sequence[str]
    tags: Sequence[str]

    @property
    def config(self) -> dict[str, Any]:
        """Of both networks."""
        return {"code": self.code, "hidden": list(self.hidden)}


class Autoencoder(nn.Module):
    """The encoder and the decoder in training."""

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        """Build from fixed first weights."""
        super().__init__()
        torch.manual_seed(0)
        self.encoder = PerceptronEncoder(**recipe.config)
        self.decoder = PerceptronDecoder(**recipe.config)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 1, 8, 8]`` in [-1, 1] to its reconstruction."""
        restored: Tensor = self.decoder(self.encoder(image))
        return restored


def noisy(image: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """An image in [-1, 1] with Gaussian noise, as an 8-bit file would hold it.

    Args:
        image: ``[n, 1, 8, 8]`` in [-1, 1].
        std: of the noise, in steps of 255.
        generator: of the noise.
    """
    pixels = (image + 1) * (LARGEST / 2)
    moved = pixels + std * torch.randn(image.shape, generator=generator)
    return moved.round().clamp(0, LARGEST) * (2 / LARGEST) - 1


def images_of(split: digits.Split, seed: int) -> Tensor:
    """A split's images as 8-bit files hold them, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return digits.to_8_bit(digits.levels(split)[0], generator) * (2 / LARGEST) - 1


def train(recipe: AutoencoderRecipe, options: argparse.Namespace) -> tuple[Autoencoder, str]:
    """Minimise the squared error until the time is spent.

    Returns:
        The averaged weights that did best on validation, with standardised codes, and how long it
        took.
    """
    levels, _ = digits.levels("train")
    held_out = torch.cat([images_of("validation", seed) for seed in (6, 7, 8)])
    seen = noisy(held_out, recipe.trained_noise, torch.Generator().manual_seed(9))

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(levels), (BATCH,), generator=generator)
        moved = digits.shift(levels[rows], generator, chance=SHIFT_CHANCE)
        image = digits.to_8_bit(moved, generator) * (2 / LARGEST) - 1
        told = noisy(image, recipe.trained_noise, generator)
        return (network(told) - image).square().mean()

    def validate(network: nn.Module) -> Tensor:
        return (network(seen) - held_out).square().mean()

    network, summary = fit(recipe.id, Autoencoder(recipe), loss, validate, options, recipe.settings)
    found = cast(Autoencoder, network)
    standardize(found)
    return found, summary


@torch.no_grad()
def standardize(network: Autoencoder) -> None:
    """Give the codes of training images mean 0 and variance 1; images stay as they are."""
    for part in (network.encoder, network.decoder):
        part.mean.zero_()
        part.std.fill_(1.0)
    codes = network.encoder(images_of("train", seed=3))
    for part in (network.encoder, network.decoder):
        part.mean.copy_(codes.mean(0))
        part.std.copy_(codes.std(0).clamp(min=1e-3))


@torch.no_grad()
def measure(network: Autoencoder, recipe: AutoencoderRecipe) -> dict[str, Any]:
    """PSNR of reconstructions, and of noisy images before and after, on the test split."""
    generator = torch.Generator().manual_seed(20)
    clean = torch.cat([images_of("test", seed=100 + i) for i in range(DRAWS)])
    seen = noisy(clean, recipe.measured_noise, generator)
    return {
        "reconstruction_psnr_db": round(peak_signal_to_noise(network(clean), clean), 2),
        "noise_standard_deviation": recipe.measured_noise,
        "noisy_psnr_db": round(peak_signal_to_noise(seen, clean), 2),
        "denoised_psnr_db": round(peak_signal_to_noise(network(seen), clean), 2),
        "mean_image_psnr_db": round(peak_signal_to_noise(mean_image(len(clean)), clean), 2),
        "code_numbers": recipe.code,
        "images": len(clean) // DRAWS,
    }


def mean_image(count: int) -> Tensor:
    """The mean training image ``count`` times: what knowing nothing of an image would score."""
    return images_of("train", seed=3).mean(0, keepdim=True).expand(count, -1, -1, -1)


@torch.no_grad()
def sheet(network: Autoencoder, recipe: AutoencoderRecipe) -> Tensor:
    """Test images, reconstructions, the same with noise and without it again; then a walk."""
    images = images_of("test", seed=100)[:SHEET_COLUMNS]
    seen = noisy(images, recipe.measured_noise, torch.Generator().manual_seed(21))
    first, last = network.encoder(images[:2])
    way = torch.linspace(0, 1, SHEET_COLUMNS)[:, None]
    walk = network.decoder(torch.lerp(first, last, way))
    return torch.cat([images, network(images), seen, network(seen), walk])


def package(network: Autoencoder, recipe: AutoencoderRecipe, summary: str) -> Package:
    """Both networks with their numbers, card and images."""
    options: Mapping[str, Any] = {
        "latent": {"shape": [recipe.code]},
        "noise": {"distribution": "gaussian", "std": recipe.measured_noise},
    }
    return Package(
        id=recipe.id,
        family="vae",
        description=recipe.description,
        networks=[
            NetworkExport(
                name="deterministic_encoder",
                architecture="perceptron_encoder",
                module=network.encoder,
                inputs={"image": Input(IMAGE, "image")},
                config=recipe.config,
            ),
            NetworkExport(
                name="decoder",
                architecture="perceptron_decoder",
                module=network.decoder,
                inputs={"z": Input((recipe.code,))},
                config=recipe.config,
            ),
        ],
        options=options,
        metrics=measure(network, recipe),
        card=card(recipe, summary),
        sheet=sheet(network, recipe),
        sheet_columns=SHEET_COLUMNS,
        sheet_zoom=5,
        resolution=(digits.SIDE, digits.SIDE),
        channels=1,
    )


def card(recipe: AutoencoderRecipe, summary: str) -> Card:
    """The model card's words."""
    return Card(
        title=recipe.id,
        summary=f"{recipe.summary} The sheet shows held-out images, their reconstructions, the "
        f"same with Gaussian noise of standard deviation {recipe.measured_noise:g} (of 255), what "
        "is left when it is taken away, and a straight walk between the codes of the first two.",
        data=digits.DATA_CARD,
        training=f"{summary} at batch {BATCH} on one CPU thread on the squared error: AdamW, "
        f"{SHIFT_CHANCE:.0%} of the images moved by one pixel, averaged weights, early stopping on "
        f"the validation split. {recipe.training}",
        measured="On the test split as 8-bit images, mean PSNR over "
        f"{DRAWS} draws. `noisy_psnr_db` is the noisy image's own, `denoised_psnr_db` that of what "
        "`denoise` makes of it; noisy values are rounded and cut to 0 to 255 as a file's are. "
        "`mean_image_psnr_db` is what the mean training image would score.",
        limits=(
            "No prior over codes was learned and no distribution of images: it cannot generate, "
            "and it gives no likelihood.",
            "It knows digits of 8x8 and turns anything else into one.",
            *recipe.limits,
        ),
        recipe=f"model_store.recipes.{recipe.id.replace('-', '_')}",
        pipeline_tag="image-to-image",
        dataset="scikit-learn/load_digits",
        tags=("autoencoder", *recipe.tags),
    )
