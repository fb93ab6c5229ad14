"""Serving a VAE's encoder and decoder, or a decoder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Latents, Parameters
from services.core.pixels import LEVELS, require_finite, to_pixels, to_tensor
from services.core.trajectory import Result, Trajectory, Workload
from services.families.latent import (
    Frames,
    LatentSpec,
    Options,
    check_frames,
    drawn,
    ends,
    generator,
    latent_limits,
    unique_images,
)
from services.families.likelihood import (
    ReferenceSettings,
    comparable,
    judged,
    reference_set,
)
from services.families.vae.parameters import (
    Encode,
    Generate,
    Interpolate,
    InterpolateSeeds,
    Likelihood,
    Reconstruct,
)
from services.sampling.bounds import (
    discretized_logistic_log_likelihood,
    gaussian_log_density,
    importance_weighted_bound,
    kl_to_standard_normal,
    standard_normal_log_density,
)


class Observation(BaseModel):
    """How pixels scatter around the decoder's output; ``scale`` is in 8-bit pixel units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: Literal["discretized_logistic"] = "discretized_logistic"
    scale: Annotated[float, Field(gt=0)]


class VaeOptions(Options):
    """Options of a VAE's manifest."""

    latent: LatentSpec | None = None
    observation: Observation | None = None
    reference_log_likelihoods: list[float] | None = None
    reference_settings: ReferenceSettings = Field(default_factory=dict)


@dataclass(slots=True, eq=False, kw_only=True)
class Judgement(Trajectory):
    """An image whose likelihood is being bounded; ``x`` is the posterior's mean."""

    log_variance: Tensor
    pixels: Tensor
    reconstructions: list[float] = field(default_factory=list)
    log_weights: list[float] = field(default_factory=list)


class VaeEngine(Engine):
    """``x ~ p(x | z)``, ``z ~ N(0, I)``, with ``q(z | x)`` where there is an encoder."""

    family: ClassVar[str] = "vae"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = VaeOptions.read(self.model.id, self.model.options)
        self.has_encoder = "encoder" in self.model.networks

    def setup(self) -> None:
        """See `Engine.setup`."""
        self.decoder: Network = self.model.network("decoder", inputs=["z"], outputs=["image"])
        declared = self.options.latent.shape if self.options.latent else None
        self.shape = self.latent_shape(declared, self.decoder.inputs["z"])
        if self.has_encoder:
            self.encoder: Network = self.model.network(
                "encoder", inputs=["image"], outputs=["mean", "log_variance"]
            )

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        bounded = "likelihood" in self.operations()
        return self.model_info(
            conditioning=("none",),
            likelihood="lower_bound" if bounded else "none",
            limits=latent_limits(self.options.latent),
            reference=reference_set(
                self.options.reference_log_likelihoods, self.options.reference_settings
            ),
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        if not self.has_encoder:
            return {"generate": Generate, "interpolate": InterpolateSeeds}
        table: dict[str, type[Parameters]] = {
            "generate": Generate,
            "interpolate": Interpolate,
            "reconstruct": Reconstruct,
            "encode": Encode,
        }
        if self.options.observation is not None:
            table["likelihood"] = Likelihood
        return table

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        if name in ("likelihood", "encode", "reconstruct") and not self.has_encoder:
            return (
                f"{self.model.id} is a decoder without its encoder, so it cannot {name}; add the "
                "encoder to its manifest, or ask a model that has one"
            )
        if name == "likelihood":
            return (
                f"the manifest of {self.model.id} does not say how pixels scatter around the "
                "decoder's output (options: observation), so it bounds no likelihood"
            )
        return f"{self.model.id} cannot {name}; it offers {', '.join(self.operations())}"

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        if isinstance(parameters, Frames):
            check_frames(call, parameters)

    def workload(self, job: Job[Any]) -> Workload:
        """Bounding takes one decoder evaluation per sample; all else is one evaluation in all."""
        if job.name == "likelihood":
            samples = job.parameters.samples
            return Workload(decode="bound", step="decoder", evaluations=samples)
        return Workload(decode="values" if job.name == "encode" else "decoder")

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        jobs: list[Job[Any]] = [Job("rehearsal", self.model.id, "generate", Generate())]
        if "likelihood" in self.operations():
            blank = np.zeros((self.model.channels, *self.model.resolution), np.uint8)
            parameters = Likelihood(samples=REHEARSED_STEPS)
            jobs.append(Job("rehearsal", self.model.id, "likelihood", parameters, images=(blank,)))
        return jobs

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images of the whole batch once, then start each row."""
        posteriors = self._encode(jobs)
        return [self._start(job, posteriors) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One posterior sample of every image: its weight (Burda et al., 2015, eq. 8)."""
        rows = [t for t in batch if isinstance(t, Judgement)]
        mean = torch.stack([t.x for t in rows])
        log_variance = torch.stack([t.log_variance for t in rows])
        noise = torch.stack([t.noise() for t in rows])
        z = mean + torch.exp(0.5 * log_variance) * noise
        images = self.decoder(z=z.to(self.device))["image"].cpu()
        reconstruction = self._reconstruction(torch.stack([t.pixels for t in rows]), images)
        weights = (
            reconstruction
            + standard_normal_log_density(z)
            - gaussian_log_density(z, mean, log_variance)
        )
        require_finite(weights)
        for row, r, w in zip(rows, reconstruction.tolist(), weights.tolist(), strict=True):
            row.reconstructions.append(r)
            row.log_weights.append(w)
            row.commit(row.x)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images for latents, values for encodings and bounds."""
        kind = batch[0].workload.decode
        if kind == "bound":
            return [self._bound(t) for t in batch if isinstance(t, Judgement)]
        if kind == "values":
            return [self._encoding(t) for t in batch]
        images = self.decoder(z=torch.stack([t.x for t in batch]).to(self.device))["image"]
        pixels = to_pixels(images, self.model.pixel_range)
        return [Result(image, {"seed": t.job.seed}) for t, image in zip(batch, pixels, strict=True)]

    def _encode(self, jobs: Sequence[Job[Any]]) -> dict[int, tuple[Tensor, Tensor]]:
        places = unique_images(jobs)
        if not places:
            return {}
        by_id = {id(image): image for job in jobs for image in job.images}
        images = to_tensor([by_id[key] for key in places], self.model.pixel_range)
        output = self.encoder(image=images.to(self.device))
        mean, log_variance = output["mean"].cpu(), output["log_variance"].cpu()
        require_finite(mean)
        require_finite(log_variance)
        return {key: (mean[i], log_variance[i]) for key, i in places.items()}

    def _start(self, job: Job[Any], posteriors: Mapping[int, tuple[Tensor, Tensor]]) -> Trajectory:
        source = generator(job.seed)
        parameters, load = job.parameters, self.workload(job)
        found = [posteriors[id(image)] for image in job.images]
        if isinstance(parameters, Frames):
            start, end = ends(
                parameters,
                self.shape,
                lambda seed: torch.randn(self.shape, generator=generator(seed)),
                [mean for mean, _ in found],
            )
            z = parameters.between(start, end, job.index)
            return Trajectory(job=job, workload=load, x=z, generator=source)
        if not found:
            z = drawn(parameters, self.shape, source)
            return Trajectory(job=job, workload=load, x=z, generator=source)
        mean, log_variance = found[0]
        if job.name == "likelihood":
            pixels = torch.from_numpy(job.images[0].astype(np.float32))
            return Judgement(
                job=job,
                workload=load,
                x=mean,
                generator=source,
                log_variance=log_variance,
                pixels=pixels,
            )
        if job.name == "reconstruct" and parameters.sample:
            mean = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=source)
        condition = {"log_variance": log_variance}
        return Trajectory(job=job, workload=load, x=mean, generator=source, condition=condition)

    def _reconstruction(self, pixels: Tensor, images: Tensor) -> Tensor:
        """``log p(x | z)`` of 8-bit pixels: ``[n]``."""
        low, high = self.model.pixel_range
        mean = (images - low) / (high - low) * (LEVELS - 1)
        scale = self.options.observation.scale if self.options.observation else 1.0
        return discretized_logistic_log_likelihood(pixels.double(), mean.double(), scale)

    def _bound(self, row: Judgement) -> Result:
        weights = torch.tensor([row.log_weights], dtype=torch.float64)
        bound, error = importance_weighted_bound(weights)
        kl = kl_to_standard_normal(row.x[None].double(), row.log_variance[None].double())
        reconstruction = sum(row.reconstructions) / len(row.reconstructions)
        return judged(
            float(bound),
            dims=row.pixels.numel(),
            kind="lower_bound",
            terms={
                "reconstruction": reconstruction,
                "kl": float(kl),
                "elbo": reconstruction - float(kl),
                "iwae": float(bound),
            },
            samples=len(row.log_weights),
            std_error=float(error) if len(row.log_weights) > 1 else None,
            reference=comparable(
                self.options.reference_log_likelihoods,
                self.options.reference_settings,
                row.job.parameters.model_dump(),
            ),
        )

    def _encoding(self, trajectory: Trajectory) -> Result:
        mean, log_variance = trajectory.x, trajectory.condition["log_variance"]
        return Result(
            values={
                "latents": Latents.from_array(mean.numpy()).model_dump(),
                "log_variance": Latents.from_array(log_variance.numpy()).model_dump(),
                "kind": "posterior_mean",
            }
        )
