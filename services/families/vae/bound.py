"""Bounding an image's likelihood from below, one draw of its posterior at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from services.core.pixels import LEVELS, require_finite
from services.core.trajectory import Result, Trajectory
from services.families.likelihood import Complexity, comparable, judged
from services.families.vae.encoders import Draw
from services.families.vae.options import Observation, VaeOptions
from services.sampling.bounds import (
    discretized_logistic_log_likelihood,
    gaussian_log_density,
    importance_weighted_bound,
    kl_to_standard_normal,
    standard_normal_log_density,
)


@dataclass(slots=True, eq=False, kw_only=True)
class Judgement(Trajectory):
    """An image whose likelihood is being bounded; ``x`` is its latent at the posterior's mean.

    Attributes:
        pixels: the image, whole numbers from 0 to 255.
        reconstructions: ``log p(x | z)`` of each draw, in nats.
        log_weights: ``log p(x, z) - log q(z | x)`` of each draw.
        divergences: of each draw, the divergence of each level given the draw of those above.
    """

    pixels: Tensor
    reconstructions: list[float] = field(default_factory=list)
    log_weights: list[float] = field(default_factory=list)
    divergences: list[list[float]] = field(default_factory=list)


class Bound:
    """The importance-weighted bound of one model (Burda et al., 2015, eq. 8)."""

    def __init__(
        self, options: VaeOptions, pixel_range: tuple[float, float], image: Sequence[int]
    ) -> None:
        """Take how a model's pixels scatter; ``image`` is the shape of one."""
        self.options = options
        self.pixel_range = pixel_range
        self.scale = _scale(options.observation, image)

    def weigh(self, rows: Sequence[Judgement], draw: Draw, images: Tensor) -> None:
        """Take what one draw of every row's latent says of its image, and move each on by one.

        Args:
            rows: the images.
            draw: of their latents.
            images: the decoder's output for these.

        Raises:
            EngineFailure: a weight is not finite; no row has changed.
        """
        reconstruction = self._reconstruction(torch.stack([t.pixels for t in rows]), images)
        weights = (
            reconstruction
            + standard_normal_log_density(draw.z)
            - gaussian_log_density(draw.z, draw.mean, draw.log_variance)
        )
        require_finite(weights)
        divergences = self._divergences(draw)
        for i, row in enumerate(rows):
            row.reconstructions.append(float(reconstruction[i]))
            row.log_weights.append(float(weights[i]))
            row.divergences.append(divergences[i].tolist())
            row.commit(row.x)

    def result(self, row: Judgement) -> Result:
        """The answer, once all draws are there."""
        weights = torch.tensor([row.log_weights], dtype=torch.float64)
        bound, error = importance_weighted_bound(weights)
        options, asked = self.options, row.job.parameters.model_dump()
        settings = options.reference_settings
        return judged(
            float(bound),
            dims=row.pixels.numel(),
            kind="lower_bound",
            terms={**self._terms(row), "iwae": float(bound)},
            samples=len(row.log_weights),
            std_error=float(error) if len(row.log_weights) > 1 else None,
            reference=comparable(options.reference_log_likelihoods, settings, asked),
            complexity=Complexity(
                row.job.images[0],
                comparable(options.reference_corrected_bits_per_dim, settings, asked),
            ),
        )

    def _terms(self, row: Judgement) -> dict[str, Any]:
        """Nats: the mean of ``log p(x | z)``, the divergence (of each level too), and the ELBO."""
        draws = len(row.log_weights)
        reconstruction = sum(row.reconstructions) / draws
        levels = [sum(level) / draws for level in zip(*row.divergences, strict=True)]
        kl = sum(levels)
        terms = {"reconstruction": reconstruction, "kl": kl, "elbo": reconstruction - kl}
        if self.options.levels is not None:
            terms |= {f"kl_level_{i}": level for i, level in enumerate(levels, 1)}
        return terms

    def _divergences(self, draw: Draw) -> Tensor:
        """Of each level's Gaussian from N(0, I): ``[n, levels]``; a flat latent is one level."""
        mean, log_variance = draw.mean.double(), draw.log_variance.double()
        if self.options.levels is None:
            return kl_to_standard_normal(mean, log_variance)[:, None]
        parts = zip(
            mean.split(self.options.levels, 1),
            log_variance.split(self.options.levels, 1),
            strict=True,
        )
        return torch.stack([kl_to_standard_normal(*part) for part in parts], 1)

    def _reconstruction(self, pixels: Tensor, images: Tensor) -> Tensor:
        """``log p(x | z)`` of 8-bit pixels: ``[n]``."""
        low, high = self.pixel_range
        mean = (images - low) / (high - low) * (LEVELS - 1)
        return discretized_logistic_log_likelihood(pixels.double(), mean.double(), self.scale)


def _scale(observation: Observation | None, image: Sequence[int]) -> float | Tensor:
    if observation is None:
        return 1.0
    if isinstance(observation.scale, list):
        return torch.tensor(observation.scale, dtype=torch.float64).view(*image)
    return observation.scale
