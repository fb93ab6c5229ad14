"""Editing: which noise a row starts from, and which canvas it is made on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.core.errors import InvalidParameter
from services.core.images import Pixels, resized
from services.core.job import Job
from services.families.diffusion.flights import Blend
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.panorama import check_growth, grows, mask_of
from services.families.diffusion.parameters import Generate, Inpaint, Invert, Outpaint
from services.families.latent import Frames, ends, generator, latent_from
from services.sampling.interpolation import slerp
from services.sampling.plan import Plan


def first_state(
    job: Job[Any],
    plan: Plan,
    source: torch.Generator,
    known: Tensor | None,
    shape: tuple[int, ...],
) -> tuple[Tensor, Blend | None]:
    """Where a row begins, and what it holds on to.

    Args:
        job: what was asked.
        plan: where it goes from there.
        source: the row's own noise.
        known: the latent of the image that came with the request, if one did.
        shape: of a state.

    Raises:
        InvalidParameter: latents of another shape.
    """
    parameters = job.parameters
    if isinstance(parameters, Frames):
        start, end = ends(
            parameters,
            shape,
            lambda seed: torch.randn(shape, generator=generator(seed)),
            (),
        )
        return parameters.between(start, end, job.index) * plan.initial_scale, None
    if isinstance(parameters, Generate) and parameters.latents is not None:
        return varied(latent_from(parameters.latents, shape), job) * plan.initial_scale, None
    if known is not None and isinstance(parameters, Invert):
        return float(plan.alphas[0]) * known, None
    noise = torch.randn(shape, generator=source)
    if known is None:
        return varied(noise, job) * plan.initial_scale, None
    x = float(plan.alphas[0]) * known + float(plan.sigmas[0]) * noise
    if is_from_noise(job):
        x = noise * plan.initial_scale
    if job.mask is None:
        return x, None
    mask = torch.from_numpy(job.mask.astype(np.float32) / 255)
    mask = functional.adaptive_max_pool2d(mask, shape[-2:])
    return x, Blend(known=known, mask=mask, noise=noise)


def is_from_noise(job: Job[Any]) -> bool:
    """Whether an inpainting begins at nothing but noise, as diffusers' do at full strength."""
    return isinstance(job.parameters, Inpaint) and job.parameters.strength == 1.0


def noise_seed(job: Job[Any]) -> int:
    """The seed of a row's own noise; the rows of a set of variations share theirs."""
    return job.parameters.seed if _is_variation(job) else job.seed


def seeds_of(job: Job[Any]) -> dict[str, int]:
    """The seeds that make a row's image again, as its answer names them."""
    if not _is_variation(job):
        return {"seed": job.seed}
    return {"seed": noise_seed(job), "variation_seed": job.parameters.variation_seed + job.index}


def varied(noise: Tensor, job: Job[Any]) -> Tensor:
    """Noise on its way to another seed's, where the row is one of a set of variations.

    Along the great circle by `Generate.variation_strength`, so that it stays as likely as noise
    (AUTOMATIC1111's "variation seed").
    """
    if not _is_variation(job):
        return noise
    other = torch.randn(noise.shape, generator=generator(job.parameters.variation_seed + job.index))
    return slerp(noise, other, job.parameters.variation_strength)


def _is_variation(job: Job[Any]) -> bool:
    return isinstance(job.parameters, Generate) and job.parameters.variation_seed is not None


def check_margins(
    parameters: Outpaint, model_id: str, resolution: tuple[int, int], options: DiffusionOptions
) -> None:
    """Refuse margins that leave nothing to make, or no room for the image.

    Raises:
        InvalidParameter: says what would be right.
    """
    height, width = resolution
    if not any((parameters.left, parameters.top, parameters.right, parameters.bottom)):
        raise InvalidParameter(
            "outpaint needs a margin to fill: give left, top, right or bottom, in pixels of the "
            f"{width} x {height} answer",
            param="left",
        )
    if parameters.canvas == "grow":
        check_growth(parameters, model_id, resolution, options)
        return
    for first, second, side in (("left", "right", width), ("top", "bottom", height)):
        taken = getattr(parameters, first) + getattr(parameters, second)
        if taken >= side:
            raise InvalidParameter(
                f"{first} and {second} take {taken} of {side} pixels, which leaves no room for the "
                f"image; together they may take {side - 1}",
                param=first,
            )


def on_canvas(jobs: Sequence[Job[Any]]) -> list[Job[Any]]:
    """Jobs as they are, but for `Outpaint`: these become an inpainting of their canvas's margins.

    All rows of a call share one canvas, so that it is encoded once; where it grows, the image is.
    """
    if not jobs or not isinstance(jobs[0].parameters, Outpaint):
        return list(jobs)
    if grows(jobs[0]):
        mask = mask_of(jobs[0])
        return [replace(job, mask=mask) for job in jobs]
    canvas, mask = canvas_of(jobs[0].images[0], jobs[0].parameters)
    return [replace(job, images=(canvas,), mask=mask) for job in jobs]


def canvas_of(image: Pixels, parameters: Outpaint) -> tuple[Pixels, Pixels]:
    """The image scaled into the box between the margins, and a mask that marks the margins.

    The margins repeat the image's edge: an encoder looks across it, and what it sees there should
    be no stranger to the image than need be.

    Args:
        image: uint8 ``[channels, height, width]``.
        parameters: the margins, already checked.

    Returns:
        The canvas, of the image's shape, and uint8 ``[1, height, width]``: 255 in the margins.
    """
    _, height, width = image.shape
    beside = ((parameters.top, parameters.bottom), (parameters.left, parameters.right))
    size = (height - sum(beside[0]), width - sum(beside[1]))
    canvas = np.pad(resized(image, size), ((0, 0), *beside), mode="edge")
    mask = np.pad(np.zeros((1, *size), np.uint8), ((0, 0), *beside), constant_values=255)
    return canvas, mask
