"""What finished trajectories come to: images, latents, bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor

from services.core.errors import EngineFailure
from services.core.images import Pixels
from services.core.network import Network, OpenedModel
from services.core.parameters import Latents
from services.core.pixels import LEVELS, require_finite, to_pixels
from services.core.trajectory import Result, Trajectory
from services.families.diffusion.editing import seeds_of
from services.families.diffusion.flights import Judgement, Sampling
from services.families.diffusion.ode_flight import OdeFlight
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.panorama import growth_of
from services.families.diffusion.tiling import Tiling, tiling_of
from services.families.likelihood import Complexity, comparable, judged
from services.sampling.bounds import (
    discretized_logistic_log_likelihood,
    gaussian_entropy,
    standard_normal_log_density,
)


class Renderer:
    """Decodes the states of one model."""

    def __init__(self, model: OpenedModel, options: DiffusionOptions, device: torch.device) -> None:
        """Open the decoder of a latent model.

        Raises:
            InvalidNetwork: there is none.
        """
        self._model, self._options, self._device = model, options, device
        self._decoder: Network | None = None
        self.tiling: Tiling | None = None
        self.shift, self.scale = torch.tensor(0.0), torch.tensor(1.0)
        space = options.latent
        if space is not None:
            self._decoder = model.network("decoder", inputs=["z"], outputs=["image"])
            self.tiling = tiling_of(space.shape, self._decoder.inputs["z"].shape)
            self.shift = torch.tensor(space.shift).view(-1, 1, 1)
            self.scale = torch.tensor(space.scale).view(-1, 1, 1)

    def images(self, batch: Sequence[Trajectory]) -> list[Result]:
        """8-bit images; what an inpainting was told to keep is the original's, to the pixel."""
        if self.tiling is None:
            decoded = self._decode(torch.stack([t.x for t in batch]))
        else:
            decoded = torch.stack([self._assembled(t.x, t.parts, self.tiling) for t in batch])
        pixels = to_pixels(decoded, self._model.pixel_range)
        return [
            Result(_composite(t, image), {**seeds_of(t.job), **_revision(t), **_reuse(t)})
            for t, image in zip(batch, pixels, strict=True)
        ]

    def panorama(self, t: Sampling) -> Result:
        """An image that has grown, decoded in tiles of the decoder's own size.

        What was there before is put back, to the pixel.
        """
        decoded, space = t.x, self._options.latent
        if space is not None:
            _, height, width = space.shape
            tile = self.tiling.tile if self.tiling else (height, width)
            decoded = self._assembled(t.x, (), Tiling((t.x.shape[-2], t.x.shape[-1]), tile))
        (pixels,) = to_pixels(decoded[None], self._model.pixel_range)
        kept = growth_of(t.job.parameters).inside(pixels, t.job.images[0])
        return Result(kept, seeds_of(t.job))

    def slice(self, batch: Sequence[Trajectory]) -> list[Tensor]:
        """The next tile of each, decoded; nothing is changed."""
        if self.tiling is None:
            raise EngineFailure(f"'{self._model.id}' decodes at once: this is a bug")
        tiles = [self.tiling.cut(t.x, len(t.parts)) for t in batch]
        return [*self._decoded(torch.stack(tiles))]

    def latents(self, trajectory: Trajectory) -> Result:
        """The state as it is, for `encode`."""
        require_finite(trajectory.x)
        latents = Latents.from_array(trajectory.x.numpy()).model_dump()
        return Result(values={"latents": latents, "kind": "noise"})

    def bounds(self, batch: Sequence[Judgement]) -> list[Result]:
        """The variational bounds of a batch, with their terms.

        ``log p(image) >= E[log p(image | z)] + E[log p(z)] + H(q(z | image))`` (Kingma and Welling,
        2013, eq. 2), with ``log p(z)`` bounded by the diffusion's own terms (Kingma et al., 2021,
        eq. 11). In pixel space z is the image, dequantised uniformly, and the first term is absent.
        """
        reconstructions = self._reconstructions(batch)
        return [
            self._bound(row, values) for row, values in zip(batch, reconstructions, strict=True)
        ]

    def estimates(self, batch: Sequence[OdeFlight]) -> list[Result]:
        """Likelihoods estimated along the probability-flow ODE, with their terms.

        Two of them estimate the log-density of the state with the schedule's least noise, under the
        model that the ODE is (Song et al., 2021, eq. 39): ``log_prior``, of the noise that it ends
        in, and ``log_det``, the divergence on the way there. Neither is a bound: both have the
        solver's error, and the second the trace estimator's, which averages out over probes.

        The others turn that density into one of the 8-bit image as `bounds` does, and so are a
        lower bound: ``reconstruction`` and ``entropy`` for the encoder's posterior (in pixel space,
        uniform noise within a pixel's bin), and ``ends`` for reading the clean state off the one
        with the least noise, whose loss and gain of entropy leave ``log alpha`` a dimension. The
        total is an estimate, comparable with that of `bounds`, from which it differs in the
        diffusion's part alone.
        """
        reconstructions = self._reconstructions(batch)
        return [
            self._estimate(row, values) for row, values in zip(batch, reconstructions, strict=True)
        ]

    def _decode(self, x: Tensor) -> Tensor:
        if self.tiling is None:
            return self._decoded(x)
        return torch.stack([self._assembled(row, (), self.tiling) for row in x])

    def _assembled(self, x: Tensor, parts: Sequence[Tensor], tiling: Tiling) -> Tensor:
        """One image from its tiles; those that are missing are decoded now."""
        missing = [
            self._decoded(tiling.cut(x, place)[None])[0]
            for place in range(len(parts), len(tiling.places))
        ]
        return tiling.blend([*parts, *missing])

    def _decoded(self, x: Tensor) -> Tensor:
        if self._decoder is None:
            return x
        z = x * self.scale + self.shift
        return self._decoder(z=z.to(self._device))["image"].cpu()

    def _reconstructions(self, batch: Sequence[Judgement | OdeFlight]) -> list[list[float]]:
        """``log p(image | z)`` of every pass of every row; zeros in pixel space."""
        observation = self._options.observation
        if self._decoder is None or observation is None:
            return [[0.0] * row.passes for row in batch]
        clean = torch.stack([z for row in batch for z in row.clean])
        pixels = torch.stack([row.pixels for row in batch for _ in row.clean])
        low, high = self._model.pixel_range
        mean = (self._decode(clean).double() - low) / (high - low) * (LEVELS - 1)
        values = discretized_logistic_log_likelihood(pixels, mean, observation.scale)
        require_finite(values)
        flat = iter(values.tolist())
        return [[next(flat) for _ in row.clean] for row in batch]

    def _bound(self, row: Judgement, reconstructions: Sequence[float]) -> Result:
        rest = row.rest()
        entropy = self._entropy(row)
        estimates = [
            reconstruction - diffusion - rest + entropy
            for reconstruction, diffusion in zip(reconstructions, row.diffusion, strict=True)
        ]
        require_finite(torch.tensor(estimates))
        count = len(estimates)
        return judged(
            fmean(estimates),
            dims=row.pixels.numel(),
            kind="lower_bound",
            terms={
                "reconstruction": fmean(reconstructions),
                "diffusion": -fmean(row.diffusion),
                "ends": -rest,
                "entropy": entropy,
            },
            samples=count,
            std_error=stdev(estimates) / math.sqrt(count) if count > 1 else None,
            reference=self._reference(row, self._options.reference_log_likelihoods),
            complexity=self._complexity(row),
        )

    def _estimate(self, row: OdeFlight, reconstructions: Sequence[float]) -> Result:
        log_priors = standard_normal_log_density(row.x).tolist()
        log_dets = row.log_det.tolist()
        ends = row.mean.numel() * math.log(row.first.alpha)
        entropy = self._entropy(row)
        estimates = [
            reconstruction + log_prior + log_det + ends + entropy
            for reconstruction, log_prior, log_det in zip(
                reconstructions, log_priors, log_dets, strict=True
            )
        ]
        require_finite(torch.tensor(estimates))
        count = len(estimates)
        return judged(
            fmean(estimates),
            dims=row.pixels.numel(),
            kind="estimate",
            terms={
                "reconstruction": fmean(reconstructions),
                "log_prior": fmean(log_priors),
                "log_det": fmean(log_dets),
                "ends": ends,
                "entropy": entropy,
            },
            samples=count,
            std_error=stdev(estimates) / math.sqrt(count) if count > 1 else None,
            reference=self._reference(row, self._options.reference_log_likelihoods),
            complexity=self._complexity(row),
        )

    def _complexity(self, row: Judgement | OdeFlight) -> Complexity:
        quantiles = self._options.reference_corrected_bits_per_dim
        return Complexity(row.job.images[0], self._reference(row, quantiles))

    def _reference(
        self, row: Judgement | OdeFlight, quantiles: Sequence[float] | None
    ) -> Sequence[float] | None:
        """What the model was told by another name than a prompt counts as one."""
        asked = row.job.parameters.model_dump()
        if asked.get("factors") is not None or asked.get("label") is not None:
            asked["prompt"] = None
        return comparable(quantiles, self._options.reference_settings, asked)

    def _entropy(self, row: Judgement | OdeFlight) -> float:
        """Of the posterior; in pixel space, of the uniform noise within a pixel's bin."""
        if self._decoder is None:
            low, high = self._model.pixel_range
            return row.mean.numel() * math.log((high - low) / LEVELS)
        return float(gaussian_entropy(2 * torch.log(row.std.double())[None]))


def _composite(trajectory: Trajectory, image: Pixels) -> Pixels:
    mask = trajectory.job.mask
    if mask is None:
        return image
    return np.where(mask > 0, image, trajectory.job.images[0])


def _revision(trajectory: Trajectory) -> dict[str, str]:
    """The prompt that was drawn, where the client's left things open."""
    whole = trajectory.revised_prompt if isinstance(trajectory, Sampling) else None
    return {} if whole is None else {"revised_prompt": whole}


def _reuse(trajectory: Trajectory) -> dict[str, int]:
    """Evaluations of branches of which a step cache left out most, where one was asked for."""
    cache = trajectory.step_cache if isinstance(trajectory, Sampling) else None
    if cache is None:
        return {}
    return {"reused_evaluations": cache.reused}
