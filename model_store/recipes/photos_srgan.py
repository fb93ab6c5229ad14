"""Train SRGAN on photographs: ``python -m model_store.recipes.photos_srgan``.

In three parts (Ledig et al., 2017, arXiv:1609.04802, section 3.2). A classifier of textures learns
the features that images are compared by; a generator learns to enlarge by the mean absolute error;
then it plays against a discriminator of patches, held to the photograph by the features and, a
little, by the pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_store.architectures.texture import TextureClassifier
from model_store.architectures.translation import PatchDiscriminator, ResidualEnlarger
from model_store.evaluation.enlargement import psnr, sharpness, ssim
from model_store.evaluation.texture import texture_distance
from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.recipes import photographs, shapes, texture_classifier
from model_store.recipes.adversarial import Game, play
from model_store.recipes.early_stopping import Settings, fit
from model_store.recipes.training import arguments
from services.sampling.enlarging import enlarged

ID = "photos-srgan"
MINUTES = 12.0
"""Of the game; the two parts before it take `FEATURES_MINUTES` and `ENLARGING_MINUTES`."""
FEATURES_MINUTES = 1.5
FEATURES_SEED = 5
"""Another than the judge's, which measures what these features train."""
ENLARGING_MINUTES = 9.0
ENLARGING = Settings(peak_rate=1.5e-3, check_every=50, weight_decay=0.0)
GAME = Game(generator_rate=3e-4, discriminator_rate=3e-4, adversarial=0.01)
FACTOR = 4
TILE = 32
"""Side of what the network is given, in pixels; what it makes is `FACTOR` times as wide."""
BATCH, PATCH = 8, 64
MADE = 2
"""Of a batch, so many are made shapes: flat areas and clean edges, which photographs lack."""
FEATURE_WEIGHT = 0.1
CONFIG: dict[str, Any] = {"channels": 3, "factor": FACTOR, "width": 48, "blocks": 4, "refine": 16}
SHEET_TILES = (5, 11, 16)

Pairs = tuple[Tensor, Tensor]
"""Images made small ``[n, 3, h, w]`` and as they were ``[n, 3, 4h, 4w]``, in [-1, 1]."""


def pairs(images: NDArray[np.uint8]) -> Pairs:
    """Uint8 images ``[n, h, w, 3]`` made small and as they are."""
    small = photographs.shrunken(images, FACTOR)
    return photographs.to_unit_range(small), photographs.to_unit_range(images)


def made(
    count: int, split: shapes.Split, generator: torch.Generator, side: int
) -> NDArray[np.uint8]:
    """Made shapes, uint8 ``[count, side, side, 3]``."""
    images, _ = shapes.batch(count, split, generator, resolution=side)
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def draw(generator: torch.Generator) -> Pairs:
    """A batch to train with."""
    photos = photographs.patches(BATCH - MADE, "train", PATCH, generator)
    return pairs(np.concatenate([photos, made(MADE, "train", generator, PATCH)]))


def feature_loss(features: TextureClassifier, images: Tensor, real: Tensor) -> Tensor:
    """Mean squared distance of normalised features, over all layers (Zhang et al., 2018, eq. 1)."""
    total = images.new_zeros(())
    for one, other in zip(features.features(images), features.features(real), strict=True):
        apart = functional.normalize(one, dim=1) - functional.normalize(other, dim=1)
        total = total + apart.square().sum(dim=1).mean()
    return total


def learn_to_enlarge(options: argparse.Namespace) -> tuple[nn.Module, str]:
    """The generator of the least absolute error, by early stopping, and how long it took."""
    held_out = pairs(photographs.tiles("validation", PATCH)[::3])

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        small, real = draw(generator)
        return functional.l1_loss(network(small), real)

    return fit(
        f"{ID}-enlarging",
        ResidualEnlarger(**CONFIG),
        loss,
        lambda network: functional.l1_loss(network(held_out[0]), held_out[1]),
        argparse.Namespace(**{**vars(options), "minutes": ENLARGING_MINUTES}),
        ENLARGING,
    )


def train(options: argparse.Namespace) -> tuple[nn.Module, nn.Module, str]:
    """Train all parts; the generator before and after the game, and how long they took."""
    features = texture_classifier.train(
        f"{ID}-features", FEATURES_MINUTES, options, seed=FEATURES_SEED
    )
    plain, enlarging = learn_to_enlarge(options)
    generator = ResidualEnlarger(**CONFIG)
    generator.load_state_dict(plain.state_dict())

    def content(images: Tensor, real: Tensor) -> Tensor:
        pixels = functional.l1_loss(images, real)
        return pixels + FEATURE_WEIGHT * feature_loss(features, images, real)

    played, game = play(
        ID,
        generator,
        PatchDiscriminator(3),
        draw,
        lambda _, image: image,
        content,
        options,
        GAME,
    )
    return plain, played, f"{enlarging} by the absolute error, {game} of the game"


@torch.no_grad()
def applied(network: nn.Module, small: Tensor) -> Tensor:
    """What a generator makes of small images, a few at a time."""
    return torch.cat([network(part) for part in small.split(8)])


def bicubic(small: Tensor) -> Tensor:
    """Plain enlargement."""
    return torch.stack([enlarged(image, FACTOR) for image in small])


def measure(plain: nn.Module, played: nn.Module) -> dict[str, Any]:
    """Bicubic enlargement, the generator before the game and after it, on held-out photographs."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "bicubic": bicubic,
        "before_the_game": partial(applied, plain),
        "srgan": partial(applied, played),
    }
    small, real = pairs(photographs.tiles("test", TILE * FACTOR))
    found: dict[str, Any] = {"tiles": len(real)}
    for name, way in ways.items():
        images = way(small)
        found |= {
            f"{name}_perceptual_distance": round(float(texture_distance(images, real).mean()), 4),
            f"{name}_psnr_db": round(float(psnr(images, real).mean()), 2),
            f"{name}_ssim": round(float(ssim(images, real).mean()), 4),
            f"{name}_sharpness": round(sharpness(images, real), 3),
        }
    found["srgan_psnr_cost_db"] = round(found["bicubic_psnr_db"] - found["srgan_psnr_db"], 2)
    drawn = made(48, "test", torch.Generator().manual_seed(6), TILE * FACTOR)
    small, real = pairs(drawn)
    for name, way in ways.items():
        found[f"shapes_{name}_psnr_db"] = round(float(psnr(way(small), real).mean()), 2)
    return found


def sheet_of(plain: nn.Module, played: nn.Module) -> Tensor:
    """Held-out tiles: made small, bicubic, before the game, after it, and as they were."""
    small, real = pairs(photographs.tiles("test", TILE * FACTOR)[list(SHEET_TILES)])
    blocks = small.repeat_interleave(FACTOR, dim=2).repeat_interleave(FACTOR, dim=3)
    columns = [blocks, bicubic(small), applied(plain, small), applied(played, small), real]
    return torch.stack(columns, dim=1).flatten(0, 1).clamp(-1, 1)


def package(plain: nn.Module, played: nn.Module, summary: str) -> Package:
    """The generator with its numbers, card and samples."""
    return Package(
        id=ID,
        family="translation",
        description="SRGAN: enlarges photographs to four times their size in one evaluation, up "
        "to 256x256 pixels; also the second model of a cascade.",
        networks=[
            NetworkExport(
                name="generator",
                architecture="residual_enlarger",
                module=played,
                inputs={"source": Input((3, TILE, TILE), "image")},
                config=CONFIG,
            )
        ],
        options={"factor": FACTOR, "takes": "a small photograph"},
        metrics=measure(plain, played),
        card=card(summary),
        sheet=sheet_of(plain, played),
        sheet_columns=5,
        sheet_zoom=1,
        resolution=(TILE * FACTOR, TILE * FACTOR),
    )


def card(summary: str) -> Card:
    """The model card's words."""
    return Card(
        title=ID,
        summary="A generator that enlarges a photograph to four times its width and height in one "
        "evaluation, and whose detail was trained against a discriminator. The sheet shows "
        "patches of photographs that were held out, one a row, each five times: made small, "
        "enlarged by bicubic filtering, by the generator before the game, after it, and as it was.",
        data=f"{photographs.DATA_CARD} A quarter of each batch are made shapes "
        "(`model_store.recipes.shapes`), so that flat areas stay flat in a cascade.",
        training=f"{summary}, at batch {BATCH} on one CPU thread: {PATCH}x{PATCH} patches, turned, "
        "mirrored, channels in any order, made small by Pillow's bicubic filter and rounded to 8 "
        "bits. The game: a discriminator of patches with spectral normalisation, the relativistic "
        f"average loss with weight {GAME.adversarial:g} beside the absolute error of the pixels "
        f"and, with weight {FEATURE_WEIGHT:g}, the distance of features of a network that tells "
        "the training photographs apart; the generator's weights are averaged.",
        measured=f"All {TILE * FACTOR}x{TILE * FACTOR} tiles of two held-out photographs, each at "
        "full and at half size. `..._perceptual_distance` is that of the features of a second "
        "network that tells textures apart, trained with another seed and used for nothing else "
        "(less is closer; LPIPS in its form alone, so it compares with no published number). "
        "`srgan_psnr_cost_db` is what the detail costs against bicubic filtering: a game trades "
        "error for likeness. `..._sharpness` is the energy of the Laplacian over that of the real "
        "image: 1 is as sharp, and it does not say whether the detail is right. `shapes_...` are "
        "made shapes of combinations that were never trained on.",
        limits=(
            "Detail is invented, not recovered: no evidence of what was there.",
            "Trained on eight photographs; small text and faces are not known to it.",
            "It expects images made small without blur beyond a bicubic filter's, and no noise or "
            "JPEG artefacts.",
            "Deterministic: a seed changes nothing. `photos-sr` draws other detail by every seed.",
        ),
        recipe="model_store.recipes.photos_srgan",
        pipeline_tag="image-to-image",
        dataset="scikit-image/data",
        tags=("super-resolution", "gan", "srgan"),
    )


def main() -> None:
    """Train, measure, export and package the model, if it has learned what it is for."""
    options = arguments(__doc__ or "", minutes=MINUTES)
    found = package(*train(options))
    ours, plain = (found.metrics[f"{name}_perceptual_distance"] for name in ("srgan", "bicubic"))
    if ours >= plain:
        raise SystemExit(
            f"not published: its perceptual distance is {ours}, that of bicubic filtering {plain}; "
            "train longer (--minutes)"
        )
    publish(found)


if __name__ == "__main__":
    main()
