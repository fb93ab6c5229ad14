"""Where a row's latent comes from when no network has to say: a draw, a walk, a strip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from services.families.latent import Frames, drawn, ends, generator, latent_from
from services.families.traversal import LatentTraversal
from services.families.vae.parameters import GenerateLevels, ReconstructLevels


class Starts:
    """Latents of one model, of ``shape``; in ``levels`` from the top down, where it has several."""

    def __init__(self, shape: Sequence[int], levels: Sequence[int] | None) -> None:
        self.shape = tuple(shape)
        self.levels = list(levels or ())

    def unit(self, seed: int) -> Tensor:
        """A draw from N(0, I)."""
        return torch.randn(self.shape, generator=generator(seed))

    def from_prior(self, parameters: Any, seed: int) -> Tensor:
        """The latent of ``generate``; of several levels, each at its own temperature."""
        z = drawn(parameters, self.shape, generator(seed))
        if not isinstance(parameters, GenerateLevels) or parameters.temperatures is None:
            return z
        return z * torch.tensor(parameters.temperatures).repeat_interleave(
            torch.tensor(self.levels)
        )

    def between(self, parameters: Frames, index: int, encoded: Sequence[Tensor]) -> Tensor:
        """One frame of ``interpolate``; ``encoded`` is empty, or the latents of two images."""
        start, end = ends(parameters, self.shape, self.unit, encoded)
        return parameters.between(start, end, index)

    def along(self, parameters: LatentTraversal, index: int, encoded: Sequence[Tensor]) -> Tensor:
        """One image of ``traverse``, through an image's latent, the client's own, or a draw."""
        if encoded:
            origin = encoded[0]
        elif parameters.latents is not None:
            origin = latent_from(parameters.latents, self.shape)
        else:
            origin = self.unit(parameters.seed)
        return parameters.moved(origin, index)

    def from_image(self, parameters: Any, seed: int, latent: Tensor) -> Tensor:
        """The latent of ``reconstruct``: the image's own, or its upper levels above the prior's.

        Args:
            parameters: what was asked.
            seed: of the row.
            latent: the image's, in units of the prior.
        """
        if not isinstance(parameters, ReconstructLevels) or parameters.levels is None:
            return latent
        below = self.unit(seed) if parameters.sample else torch.zeros(self.shape)
        kept = sum(self.levels[: parameters.levels])
        return torch.cat([latent[:kept], below[kept:]])
