"""Where images lie in the space that a model denoises: a mean and a spread for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from services.core.images import Pixels
from services.core.job import Job
from services.core.network import Network
from services.core.pixels import LEVELS, bin_centers, to_tensor
from services.families.diffusion.results import Renderer
from services.families.latent import unique_images

Posterior = tuple[Tensor, Tensor]
"""Mean and standard deviation, each of the denoised state's shape."""


def posteriors(
    jobs: Sequence[Job[Any]],
    encoder: Network | None,
    renderer: Renderer,
    pixel_range: tuple[float, float],
    device: torch.device,
) -> Mapping[int, Posterior]:
    """The posterior of every image of a batch, each encoded once, by the image's identity.

    Args:
        jobs: whose images they are.
        encoder: of the model's latents; ``None`` for a model in pixels.
        renderer: knows the latents' shift and scale.
        pixel_range: the model's.
        device: of the encoder.
    """
    places = unique_images(jobs)
    if not places:
        return {}
    by_id = {id(image): image for job in jobs for image in job.images}
    images = [by_id[key] for key in places]
    if encoder is None:
        mean, std = _within_bins(images, pixel_range)
    else:
        mean, std = encoded(to_tensor(images, pixel_range), encoder, renderer, device)
    return {key: (mean[i], std[i]) for key, i in places.items()}


def encoded(
    images: Tensor, encoder: Network, renderer: Renderer, device: torch.device
) -> Posterior:
    """The posteriors of images ``[n, channels, height, width]``, stacked; see `posteriors`."""
    output = encoder(image=images.to(device))
    mean = (output["mean"].cpu() - renderer.shift) / renderer.scale
    return mean, torch.exp(0.5 * output["log_variance"].cpu()) / renderer.scale


def _within_bins(
    images: Sequence[Pixels], pixel_range: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """An 8-bit pixel stands for its bin: the centre, and a uniform distribution's spread."""
    low, high = pixel_range
    mean = bin_centers(images, pixel_range)
    return mean, torch.full_like(mean, (high - low) / LEVELS / math.sqrt(12))
