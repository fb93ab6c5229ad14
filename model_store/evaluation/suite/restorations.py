"""How close a model comes to held-out images: reconstructed, denoised, enlarged, translated."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from model_store.evaluation.enlargement import psnr, sharpness, ssim
from model_store.evaluation.metrics.fidelity import LEAST_SIDE, ms_ssim, perceptual_distance
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.features import Features, ReadsFactors
from model_store.evaluation.suite.held_out import Factor, Pairs, signed
from model_store.evaluation.suite.measured import Measurement, measurement
from services.core.images import resized
from services.core.job import Task

COLOURS = 3


async def reconstructed(
    subject: Subject, images: Tensor, features: Features | None
) -> list[Measurement]:
    """Images encoded and decoded again, against themselves."""
    items = await subject.of_each("reconstructions", Task.EDIT, images, operation="reconstruct")
    return closeness("reconstruction", subject.pixels(items), images, features)


async def denoised(
    subject: Subject, images: Tensor, features: Features | None
) -> list[Measurement]:
    """Images with the noise that the model names taken away again; the noisy ones beside them."""
    std = float(subject.info.limits["noise_standard_deviation"])
    draws = torch.randn(images.shape, generator=torch.Generator().manual_seed(subject.seed))
    noisy = (images + std * draws).round().clamp(0, 255).byte()
    items = await subject.of_each("denoised images", Task.EDIT, noisy, operation="denoise")
    return [
        measurement("noise_standard_deviation", std, images=len(images)),
        *closeness("denoised", subject.pixels(items), images, features),
        *closeness("noisy", noisy, images, features),
    ]


async def enlarged(
    subject: Subject, images: Tensor, features: Features | None
) -> list[Measurement]:
    """Images made small by bicubic filtering and enlarged again; bicubic enlargement beside it."""
    factor = int(subject.info.limits["factor"])
    size = (images.shape[2], images.shape[3])
    small = shrunken(images, factor)
    items = await subject.of_each(
        "enlargements", Task.EDIT, small, operation="super_resolution", together=1
    )
    plain = torch.stack([torch.from_numpy(resized(one.numpy(), size)) for one in small])
    return [
        *closeness("enlargement", subject.pixels(items), images, features),
        *closeness("bicubic", plain, images, features),
    ]


async def translated(
    subject: Subject, pairs: Pairs, features: Features | None, reader: ReadsFactors | None
) -> list[Measurement]:
    """Translations against what they should be, and the sources beside them.

    Where it is known what the targets show, also whether the translations are read alike.
    """
    items = await subject.of_each("translations", Task.EDIT, pairs.source, operation="translate")
    made = subject.pixels(items)
    found = [
        *closeness("translation", made, pairs.target, features),
        *closeness("source", pairs.source, pairs.target, features),
    ]
    if reader is not None and pairs.factors:
        name = f"translation_agreement_{reader.described.name}"
        found += agreement(name, made, pairs.factors, reader)
        shown = agreement(
            f"target_agreement_{reader.described.name}", pairs.target, pairs.factors, reader
        )
        found.append(shown[1])
    return found


def agreement(
    name: str, images: Tensor, factors: Mapping[str, Factor], reader: ReadsFactors
) -> list[Measurement]:
    """Shares of factors that are read as they should be: of all, of images in all, and of each.

    Args:
        name: metrics begin with it.
        images: uint8 ``[n, channels, height, width]``.
        factors: what each row should show.
        reader: says what an image shows.
    """
    read = reader.read(images)
    right = {name: (read[name] == shown).double() for name, (_, shown) in factors.items()}
    every = torch.stack(list(right.values()))
    found = {
        name: every.mean(),
        f"{name}_all_factors": every.amin(dim=0).mean(),
        **{f"{name}_{factor}": hits.mean() for factor, hits in right.items()},
    }
    return [measurement(n, float(v), images=len(images), better="higher") for n, v in found.items()]


def shrunken(images: Tensor, factor: int) -> Tensor:
    """Images at a fraction of their size, by bicubic filtering."""
    size = (images.shape[2] // factor, images.shape[3] // factor)
    return torch.stack([torch.from_numpy(resized(image.numpy(), size)) for image in images])


def closeness(
    name: str, found: Tensor, images: Tensor, features: Features | None
) -> list[Measurement]:
    """Distances between images and their originals, both uint8 ``[n, channels, height, width]``.

    Args:
        name: what the images are; metrics begin with it.
        found: what the model made.
        images: the originals.
        features: whose maps a perceptual distance compares, where it has any.
    """
    count = len(images)
    made, real = signed(found), signed(images)
    rows = [
        measurement(
            f"{name}_psnr_db", float(psnr(made, real).mean()), images=count, better="higher"
        )
    ]
    if min(images.shape[-2:]) >= LEAST_SIDE:
        for metric, value in (
            ("ssim", float(ssim(made, real).mean())),
            ("ms_ssim", ms_ssim(made, real)),
        ):
            rows.append(measurement(f"{name}_{metric}", value, images=count, better="higher"))
    if images.shape[1] == COLOURS:
        relative = sharpness(made, real)
        if math.isfinite(relative):  # flat originals have no edges to compare with
            rows.append(measurement(f"{name}_sharpness", relative, images=count))
    maps = None if features is None else (features.maps(made), features.maps(real))
    if features is not None and maps is not None and maps[0] is not None and maps[1] is not None:
        distance = float(perceptual_distance(maps[0], maps[1]).mean())
        rows.append(
            measurement(
                f"{name}_perceptual_distance_{features.described.name}",
                distance,
                images=count,
                better="lower",
            )
        )
    return rows
