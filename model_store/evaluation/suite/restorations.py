"""How close a model comes to held-out images: reconstructed, or enlarged again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model_store.evaluation.enlargement import psnr, sharpness, ssim
from model_store.evaluation.metrics.fidelity import LEAST_SIDE, ms_ssim, perceptual_distance
from model_store.evaluation.suite.asking import Subject
from model_store.evaluation.suite.features import Features
from model_store.evaluation.suite.held_out import signed
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
