"""Denoisers made for inpainting: at every step they are told the mask and what it leaves.

Beside the state they take the mask at the latents' size and the latents of the image with the
masked part blanked out (Rombach et al., 2022, section 4.5; a UNet of 9 channels). A request without
a mask has it everywhere, over a blank image: that is what such a model was trained to take for
"nothing is known", and what diffusers' users pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.core.errors import InvalidNetwork
from services.core.job import Job
from services.core.network import Network, OpenedModel
from services.core.pixels import to_tensor
from services.families.diffusion.posteriors import Posterior, encoded
from services.families.diffusion.results import Renderer
from services.families.diffusion.steering import Condition

INPUTS = ("mask", "masked_image")
"""The denoiser's inputs beside the state, the time and the condition."""


@dataclass(frozen=True, slots=True)
class Hole:
    """What one row's denoiser is told of its image.

    Attributes:
        mask: ``[1, h, w]`` at the latents' size, 1 where the image is made anew.
        posterior: of the image without what is masked.
    """

    mask: Tensor
    posterior: Posterior

    def condition(self, source: torch.Generator) -> Condition:
        """The denoiser's inputs; the latents are one draw from the posterior.

        Args:
            source: the row's own noise.
        """
        mean, std = self.posterior
        noise = torch.randn(mean.shape, generator=source)
        return {"mask": self.mask, "masked_image": mean + std * noise}


class MaskedImages:
    """Finds the holes of one model's requests."""

    def __init__(
        self,
        model: OpenedModel,
        encoder: Network | None,
        renderer: Renderer,
        shape: Sequence[int],
        device: torch.device,
    ) -> None:
        """Encode nothing yet.

        Args:
            model: whose images they are.
            encoder: of its latents.
            renderer: knows the latents' shift and scale.
            shape: of a latent.
            device: of the encoder.

        Raises:
            InvalidNetwork: there is no encoder.
        """
        if encoder is None:
            raise InvalidNetwork(f"'{model.id}' inpaints natively, which needs a network 'encoder'")
        self._model, self._encoder, self._renderer = model, encoder, renderer
        self._size, self._device = (shape[-2], shape[-1]), device
        self._everything: Hole | None = None

    def of(self, jobs: Sequence[Job[Any]]) -> list[Hole]:
        """The hole of each job; what several rows share is encoded once."""
        keys = [(id(job.images[0]), id(job.mask)) if job.mask is not None else None for job in jobs]
        masked = {key: job for key, job in zip(keys, jobs, strict=True) if key is not None}
        found = dict(zip(masked, self._holes([*masked.values()]), strict=True))
        return [self._blank() if key is None else found[key] for key in keys]

    def _holes(self, jobs: Sequence[Job[Any]]) -> list[Hole]:
        if not jobs:
            return []
        masks = torch.stack([torch.from_numpy(np.asarray(job.mask) > 0).float() for job in jobs])
        images = to_tensor([job.images[0] for job in jobs], self._model.pixel_range)
        low, high = self._model.pixel_range
        return self._encoded(torch.where(masks > 0, torch.tensor((low + high) / 2), images), masks)

    def _blank(self) -> Hole:
        """The hole that is everything; encoded once."""
        if self._everything is None:
            low, high = self._model.pixel_range
            height, width = self._model.resolution
            image = torch.full((1, self._model.channels, height, width), (low + high) / 2)
            (self._everything,) = self._encoded(image, torch.ones(1, 1, height, width))
        return self._everything

    def _encoded(self, images: Tensor, masks: Tensor) -> list[Hole]:
        means, stds = encoded(images, self._encoder, self._renderer, self._device)
        small = functional.interpolate(masks, size=self._size)  # nearest, as it was trained
        return [Hole(mask, (mean, std)) for mask, mean, std in zip(small, means, stds, strict=True)]
