"""Serving a normalizing flow in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Latents, Parameters
from services.core.pixels import LEVELS, from_bins, require_finite, to_bins
from services.core.trajectory import Result, Trajectory, Workload
from services.families.flow.parameters import (
    Encode,
    Generate,
    Interpolate,
    Likelihood,
    Reconstruct,
)
from services.families.latent import (
    Frames,
    LatentSpec,
    Options,
    check_frames,
    drawn,
    ends,
    generator,
    unique_images,
)
from services.families.likelihood import judged
from services.sampling.bounds import importance_weighted_bound, standard_normal_log_density

BIN_CENTER = 0.5


class FlowOptions(Options):
    """Options of a flow's manifest; the references are in nats of the 8-bit image."""

    latent: LatentSpec | None = None
    reference_log_likelihoods: list[float] | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Judgement(Trajectory):
    """An image whose likelihood is being computed; ``x`` is where in its bin each pixel lies."""

    log_priors: list[float] = field(default_factory=list)
    log_dets: list[float] = field(default_factory=list)


class FlowEngine(Engine):
    """``log p(x) = log p(z) + log |det dz/dx|`` with ``z = f(x)`` (Dinh et al., 2017, eq. 2).

    8-bit pixels are bins of the interval that ``pixel_range`` names, so ``pixel_range`` of a flow
    runs from the lower edge of bin 0 to the upper edge of bin 255.
    """

    family: ClassVar[str] = "flow"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = FlowOptions.read(self.model.id, self.model.options)

    def setup(self) -> None:
        """See `Engine.setup`."""
        network = self.model.network
        self.forward: Network = network("forward", inputs=["x"], outputs=["z", "log_det"])
        self.inverse: Network = network("inverse", inputs=["z"], outputs=["x"])
        declared = self.options.latent.shape if self.options.latent else None
        self.shape = self.latent_shape(declared, self.inverse.inputs["z"])

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(conditioning=("none",), likelihood="exact")

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return {
            "generate": Generate,
            "interpolate": Interpolate,
            "reconstruct": Reconstruct,
            "likelihood": Likelihood,
            "encode": Encode,
        }

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        return f"{self.model.id} cannot {name}; it offers {', '.join(self.operations())}"

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        if isinstance(parameters, Frames):
            check_frames(call, parameters)

    def workload(self, job: Job[Any]) -> Workload:
        """Likelihood takes one forward evaluation per sample; all else is one evaluation in all."""
        if job.name == "likelihood":
            samples = job.parameters.samples
            return Workload(decode="likelihood", step="forward", evaluations=samples)
        return Workload(decode="values" if job.name == "encode" else "inverse")

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        blank = np.full((self.model.channels, *self.model.resolution), 128, np.uint8)
        judged = Likelihood(samples=REHEARSED_STEPS)
        return [
            Job("rehearsal", self.model.id, "generate", Generate()),
            Job("rehearsal", self.model.id, "likelihood", judged, images=(blank,)),
        ]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images that have to be, in one batch, then start each row."""
        encoded = self._encode([job for job in jobs if job.name != "likelihood"])
        return [self._start(job, encoded) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """The density of every image at one place within its bins."""
        rows = [t for t in batch if isinstance(t, Judgement)]
        offsets = torch.stack([self._offsets(t) for t in rows])
        x = to_bins([t.job.images[0] for t in rows], offsets, self.model.pixel_range)
        output = self.forward(x=x.to(self.device))
        log_prior = standard_normal_log_density(output["z"].cpu().double())
        log_det = output["log_det"].cpu().double().flatten()
        require_finite(log_prior + log_det)
        for row, prior, det in zip(rows, log_prior.tolist(), log_det.tolist(), strict=True):
            row.log_priors.append(prior)
            row.log_dets.append(det)
            row.commit(row.x)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images for latents, values for encodings and likelihoods."""
        kind = batch[0].workload.decode
        if kind == "likelihood":
            return [self._likelihood(t) for t in batch if isinstance(t, Judgement)]
        if kind == "values":
            return [
                Result(
                    values={
                        "latents": Latents.from_array(t.x.numpy()).model_dump(),
                        "kind": "base",
                    }
                )
                for t in batch
            ]
        x = self.inverse(z=torch.stack([t.x for t in batch]).to(self.device))["x"]
        pixels = from_bins(x, self.model.pixel_range)
        return [Result(image, {"seed": t.job.seed}) for t, image in zip(batch, pixels, strict=True)]

    def _encode(self, jobs: Sequence[Job[Any]]) -> dict[int, Tensor]:
        places = unique_images(jobs)
        if not places:
            return {}
        by_id = {id(image): image for job in jobs for image in job.images}
        images = [by_id[key] for key in places]
        centers = torch.full((len(images), *images[0].shape), BIN_CENTER)
        x = to_bins(images, centers, self.model.pixel_range)
        z = self.forward(x=x.to(self.device))["z"].cpu()
        require_finite(z)
        return {key: z[i] for key, i in places.items()}

    def _start(self, job: Job[Any], encoded: Mapping[int, Tensor]) -> Trajectory:
        source = generator(job.seed)
        parameters, load = job.parameters, self.workload(job)
        if job.name == "likelihood":
            center = torch.full(job.images[0].shape, BIN_CENTER)
            return Judgement(job=job, workload=load, x=center, generator=source)
        found = [encoded[id(image)] for image in job.images]
        if isinstance(parameters, Frames):
            start, end = ends(
                parameters,
                self.shape,
                lambda seed: torch.randn(self.shape, generator=generator(seed)),
                found,
            )
            z = parameters.between(start, end, job.index)
        elif found:
            z = found[0]
        else:
            z = drawn(parameters, self.shape, source)
        return Trajectory(job=job, workload=load, x=z, generator=source)

    def _offsets(self, row: Judgement) -> Tensor:
        """The bin's centre for a single evaluation, else a uniform draw.

        The uniform draw is the normal one's distribution function, so that an evaluation that is
        retried sees the same place.
        """
        if row.job.parameters.samples == 1:
            return row.x
        uniform: Tensor = torch.special.ndtr(row.noise())
        return uniform.clamp(max=1 - 1 / (1 << 20))

    def _likelihood(self, row: Judgement) -> Result:
        low, high = self.model.pixel_range
        dims = row.x.numel()
        log_bin = dims * math.log((high - low) / LEVELS)
        weights = torch.tensor([row.log_priors], dtype=torch.float64)
        weights += torch.tensor([row.log_dets], dtype=torch.float64)
        mean, error = importance_weighted_bound(weights)
        count = len(row.log_priors)
        return judged(
            float(mean) + log_bin,
            dims=dims,
            kind="exact" if count == 1 else "estimate",
            terms={
                "log_prior": sum(row.log_priors) / count,
                "log_det": sum(row.log_dets) / count + log_bin,
            },
            samples=count,
            std_error=0.0 if count == 1 else float(error),
            reference=self.options.reference_log_likelihoods,
        )
