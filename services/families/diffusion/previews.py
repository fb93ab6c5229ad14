"""What a latent is going to look like, by one matrix product in place of a decoder.

The colours of a decoded patch are close to an affine function of the latent there. Its coefficients
are fitted by least squares to the model's own samples, or given in the manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.core.engine import Engine
from services.core.errors import AtelierError, InvalidManifest
from services.core.images import Pixels
from services.core.job import Job
from services.core.pixels import LEVELS
from services.families.diffusion.flights import Sampling
from services.families.diffusion.options import PreviewColors
from services.families.diffusion.parameters import Generate

SAMPLES = 8
_LOOK = Generate(steps=8, sampler="euler", guidance_scale=1.0)
RIDGE = 1e-3
"""Relative to the latents' own scale: what the samples do not tell stays small."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreviewMap:
    """``rgb = weight latent + bias``, at every place alike.

    Attributes:
        weight: ``[channels, latent_channels]``, float64, to 8-bit pixel units.
        bias: ``[channels]``.
    """

    weight: Tensor
    bias: Tensor

    def apply(self, latent: Tensor) -> Pixels:
        """Uint8 ``[channels, h, w]`` of a latent ``[latent_channels, h, w]``."""
        colors = torch.einsum("ck,khw->chw", self.weight, latent.cpu().double())
        return clamped(colors + self.bias.view(-1, 1, 1))


def preview_of(
    trajectory: Sampling, colors: PreviewMap | None, pixel_range: tuple[float, float]
) -> Pixels | None:
    """The denoised image of a row's last evaluation; ``None`` before the first.

    Args:
        trajectory: a row on its way.
        colors: of a model's latents; ``None`` for a model in pixels.
        pixel_range: the model's.
    """
    denoised = trajectory.denoised
    if denoised is None:
        return None
    if trajectory.blend is not None:
        denoised = trajectory.blend.apply(denoised, alpha=1.0, sigma=0.0)
    if colors is not None:
        return colors.apply(denoised)
    low, high = pixel_range
    return clamped((denoised.cpu() - low) / (high - low) * (LEVELS - 1))


def declared_map(colors: PreviewColors, channels: int, latent_channels: int) -> PreviewMap:
    """The map that a manifest gives.

    Raises:
        InvalidManifest: it is for other numbers of channels.
    """
    weight = [len(row) for row in colors.weight]
    if weight != [latent_channels] * channels or len(colors.bias) != channels:
        raise InvalidManifest(
            f"options.preview must hold a weight of {channels} rows of {latent_channels} and a "
            f"bias of {channels}, got rows of {weight} and a bias of {len(colors.bias)}"
        )
    return PreviewMap(torch.tensor(colors.weight).double(), torch.tensor(colors.bias).double())


def fitted_map(engine: Engine) -> PreviewMap | None:
    """The map of a diffusion engine that is set up, from samples of its own of fixed seeds.

    ``None`` where the model makes nothing that could be shown; that is no reason not to serve it.
    """
    try:
        jobs = [Job("preview", engine.model.id, "generate", _LOOK, seed=i) for i in range(SAMPLES)]
        with engine.device_lock:
            batch = engine.prepare(jobs)
        while not batch[0].finished:
            with engine.device_lock:
                engine.step(batch)
        with engine.device_lock:
            results = engine.decode(batch)
        pixels = [result.pixels for result in results if result.pixels is not None]
    except AtelierError as error:
        log.warning("model '%s' has no previews: %s", engine.model.id, error)
        return None
    return fit([t.x for t in batch], pixels)


def fit(latents: Sequence[Tensor], pixels: Sequence[Pixels]) -> PreviewMap:
    """The map that predicts downscaled pixels from latents best, in the least squares sense.

    Args:
        latents: each ``[latent_channels, h, w]``.
        pixels: what each decodes to, ``[channels, height, width]``.
    """
    side = (latents[0].shape[-2], latents[0].shape[-1])
    images = torch.from_numpy(np.stack(pixels).astype(np.float64))
    colors = functional.adaptive_avg_pool2d(images, side).transpose(0, 1).flatten(1).T
    known = torch.stack(list(latents)).cpu().double().transpose(0, 1).flatten(1).T
    center, middle = known.mean(0), colors.mean(0)
    known, colors = known - center, colors - middle
    gram = known.T @ known
    gram += RIDGE * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram)).double()
    weight = torch.linalg.solve(gram, known.T @ colors).T
    return PreviewMap(weight, middle - weight @ center)


def clamped(colors: Tensor) -> Pixels:
    """8-bit pixels of values in 8-bit units; what is no number is shown black."""
    found: Pixels = torch.nan_to_num(colors).round().clamp(0, 255).to(torch.uint8).numpy()
    return found
