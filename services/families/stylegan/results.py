"""What trajectories come to: images with what is known of them, and latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.core.images import Pixels
from services.core.parameters import Latents
from services.core.pixels import LEVELS
from services.core.trajectory import Result, Trajectory
from services.families.stylegan.generator import Generator, Look
from services.families.stylegan.inversion import Inversion
from services.families.stylegan.parameters import Invert
from services.families.stylegan.places import Spaces
from services.families.traversal import Traversal, traversal_values

NOISE = "noise"


def images(batch: Sequence[Trajectory], spaces: Spaces, networks: Generator) -> list[Result]:
    """Images of rows of any operation; an inversion that is edited takes two rows of the batch."""
    shown = [_looks(trajectory, spaces) for trajectory in batch]
    rendered = iter(networks.render([look for looks in shown for look in looks]))
    found = []
    for trajectory, looks in zip(batch, shown, strict=True):
        pixels = [next(rendered) for _ in looks]
        found.append(Result(pixels[-1], _values(trajectory, pixels[0])))
    return found


def latents(batch: Sequence[Trajectory], networks: Generator) -> list[Result]:
    """Where the images of ``encode`` lie in w+, and their styles."""
    styles = networks.styled([trajectory.x for trajectory in batch])
    return [
        Result(values={**_latents(t.x), "styles": _wire(s)})
        for t, s in zip(batch, styles, strict=True)
    ]


def psnr(image: Pixels, target: Pixels) -> float | None:
    """Peak signal-to-noise ratio of 8-bit images, in dB; ``None`` where they are the same."""
    error = float(np.square(image.astype(np.float64) - target).mean())
    return None if error == 0 else 10 * math.log10((LEVELS - 1) ** 2 / error)


def _looks(trajectory: Trajectory, spaces: Spaces) -> list[Look]:
    """What decides a row's image; of an inversion the one found, and the one that was asked for."""
    parameters = trajectory.job.parameters
    channels = getattr(parameters, "channels", {})
    if not isinstance(trajectory, Inversion):
        return [Look(trajectory.x, trajectory.condition[NOISE], channels)]
    found = Look(trajectory.descent.best, torch.zeros(spaces.options.noise_size))
    if not parameters.edits:
        return [found]
    moved = spaces.moved(found.x, parameters.attributes, parameters.layers)
    return [found, Look(moved, found.noise, channels)]


def _values(trajectory: Trajectory, found: Pixels) -> dict[str, Any]:
    """What an image says of itself.

    Args:
        trajectory: its row.
        found: of an inversion, the image of the latents found.
    """
    job = trajectory.job
    if isinstance(job.parameters, Invert) and isinstance(trajectory, Inversion):
        close = psnr(found, job.images[0])
        return {"seed": job.seed, **_latents(trajectory.descent.best), "psnr": close}
    if isinstance(job.parameters, Traversal):
        return {"seed": job.seed, **traversal_values(job.parameters, job.index)}
    return {"seed": job.seed}


def _latents(w: Tensor) -> dict[str, Any]:
    return {"latents": _wire(w), "latent_space": "w+"}


def _wire(values: Tensor) -> dict[str, Any]:
    return Latents.from_array(values.numpy()).model_dump()
