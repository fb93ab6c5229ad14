"""Serving autoencoders: a VAE of one level or several, one without a prior, or a decoder alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidManifest, InvalidNetwork, InvalidParameter
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Latents, Parameters
from services.core.pixels import to_pixels, to_tensor
from services.core.trajectory import Result, Trajectory, Workload
from services.families.latent import (
    Frames,
    check_frames,
    generator,
    latent_limits,
    unique_images,
)
from services.families.likelihood import reference_set
from services.families.traversal import LatentTraversal, check_traversal, traversal_values
from services.families.vae import parameters as asked
from services.families.vae.bound import Bound, Judgement
from services.families.vae.encoders import ENCODERS, Draw, Encoder
from services.families.vae.options import VaeOptions
from services.families.vae.starts import Starts

Row = Mapping[str, Tensor]
"""What an encoder keeps of one image."""


class VaeEngine(Engine):
    """``x ~ p(x | z)``, ``z ~ N(0, I)``, with ``q(z | x)`` where there is an encoder."""

    family: ClassVar[str] = "vae"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = VaeOptions.read(self.model.id, self.model.options)
        named = [name for name in ENCODERS if name in self.model.networks]
        if len(named) > 1:
            raise InvalidManifest(
                f"the manifest of '{self.model.id}' names {len(named)} encoders, {named}; a model "
                "has one"
            )
        self.kind = named[0] if named else None
        if (self.options.levels is not None) != (self.kind == "hierarchical_encoder"):
            raise InvalidManifest(
                f"options of '{self.model.id}': `levels` belong with a network "
                "'hierarchical_encoder', and the other way round"
            )
        self._check_scale()

    def setup(self) -> None:
        """See `Engine.setup`."""
        self.generative: Network = self.model.network("decoder", inputs=["z"], outputs=["image"])
        declared = self.options.latent.shape if self.options.latent else None
        self.shape = self.latent_shape(declared, self.generative.inputs["z"])
        levels = self.options.levels
        if levels is not None and self.shape != (sum(levels),):
            raise InvalidNetwork(
                f"the levels of '{self.model.id}' have {levels} numbers, {sum(levels)} in all; "
                f"its decoder takes {list(self.shape)}"
            )
        self.starts = Starts(self.shape, levels)
        self.encoder: Encoder | None = None
        if self.kind is not None:
            self.encoder = ENCODERS[self.kind](self.model, self.device)
        self.bound = Bound(self.options, self.model.pixel_range, self._image_shape())

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        bounded = "likelihood" in self.operations()
        options = self.options
        limits = latent_limits(options.latent)
        if options.levels is not None:
            limits["latent_levels"] = options.levels
        if options.noise is not None:
            limits["noise_standard_deviation"] = options.noise.std
        return self.model_info(
            conditioning=("none",),
            likelihood="lower_bound" if bounded else "none",
            limits=limits,
            reference=reference_set(options.reference_log_likelihoods, options.reference_settings),
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        if self.kind is None:
            return {
                "generate": asked.Generate,
                "interpolate": asked.InterpolateSeeds,
                "traverse": asked.TraverseDrawn,
            }
        taught: dict[str, type[Parameters]] = (
            {} if self.options.noise is None else {"denoise": asked.Denoise}
        )
        if self.kind == "deterministic_encoder":
            return {
                "reconstruct": asked.ReconstructMean,
                **taught,
                "interpolate": asked.InterpolateCodes,
                "encode": asked.Encode,
            }
        several = self.options.levels is not None
        table: dict[str, type[Parameters]] = {
            "generate": asked.GenerateLevels if several else asked.Generate,
            "interpolate": asked.Interpolate,
            "reconstruct": asked.ReconstructLevels if several else asked.Reconstruct,
            **taught,
            "traverse": asked.Traverse,
            "encode": asked.Encode,
        }
        if self.options.observation is not None:
            table["likelihood"] = asked.Likelihood
        return table

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        model = self.model.id
        if self.kind == "deterministic_encoder" and name in ("generate", "likelihood", "traverse"):
            return (
                f"{model} is an autoencoder without a prior: no distribution of its codes was "
                f"learned, so it cannot {name}; it offers {', '.join(self.operations())}, and a "
                "VAE does what needs a prior"
            )
        if name == "denoise":
            return (
                f"{model} was not trained to denoise (options: noise); ask a denoising autoencoder"
            )
        if self.kind is None and name in ("likelihood", "encode", "reconstruct"):
            return (
                f"{model} is a decoder without its encoder, so it cannot {name}; add the "
                "encoder to its manifest, or ask a model that has one"
            )
        if name == "likelihood":
            return (
                f"the manifest of {model} does not say how pixels scatter around the "
                "decoder's output (options: observation), so it bounds no likelihood"
            )
        return f"{model} cannot {name}; it offers {', '.join(self.operations())}"

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        if isinstance(parameters, Frames):
            check_frames(call, parameters)
        if isinstance(parameters, LatentTraversal):
            check_traversal(call, parameters)
        if isinstance(parameters, asked.InterpolateCodes) and not call.images:
            self._needs_ends(parameters)
        levels = len(self.options.levels or ())
        if isinstance(parameters, asked.GenerateLevels) and parameters.temperatures is not None:
            found = len(parameters.temperatures)
            if found != levels:
                raise InvalidParameter(
                    f"temperatures has {found} numbers; {self.model.id} has {levels} levels",
                    param="temperatures",
                )
        if isinstance(parameters, asked.ReconstructLevels) and (parameters.levels or 0) > levels:
            raise InvalidParameter(
                f"levels is {parameters.levels}; {self.model.id} has {levels}", param="levels"
            )

    def workload(self, job: Job[Any]) -> Workload:
        """Bounding takes one evaluation per sample; all else is one evaluation in all."""
        if job.name == "likelihood":
            samples = job.parameters.samples
            return Workload(decode="bound", step="decoder", evaluations=samples)
        return Workload(decode="values" if job.name == "encode" else "decoder")

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        offered, model = self.operations(), self.model.id
        blank = (np.zeros(self._image_shape(), np.uint8),)
        if "generate" in offered:
            jobs: list[Job[Any]] = [Job("rehearsal", model, "generate", offered["generate"]())]
        else:
            again = offered["reconstruct"]()
            jobs = [Job("rehearsal", model, "reconstruct", again, images=blank)]
        if "likelihood" in offered:
            parameters = asked.Likelihood(samples=REHEARSED_STEPS)
            jobs.append(Job("rehearsal", model, "likelihood", parameters, images=blank))
        return jobs

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images of the whole batch once, then start each row."""
        told, means = self._encode(jobs)
        sampled = self._sample(jobs, told)
        return [self._start(job, told, means, sampled.get(i)) for i, job in enumerate(jobs)]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One posterior sample of every image: its weight (Burda et al., 2015, eq. 8)."""
        rows = [t for t in batch if isinstance(t, Judgement)]
        noise = torch.stack([t.noise() for t in rows])
        draw = self._draw([t.condition for t in rows], noise)
        images = self.generative(z=draw.z.to(self.device))["image"].cpu()
        self.bound.weigh(rows, draw, images)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images for latents, values for encodings and bounds."""
        kind = batch[0].workload.decode
        if kind == "bound":
            return [self.bound.result(t) for t in batch if isinstance(t, Judgement)]
        if kind == "values":
            return [self._encoding(t) for t in batch]
        images = self.generative(z=torch.stack([t.x for t in batch]).to(self.device))["image"]
        pixels = to_pixels(images, self.model.pixel_range)
        return [Result(image, self._values(t)) for t, image in zip(batch, pixels, strict=True)]

    def _image_shape(self) -> tuple[int, int, int]:
        return (self.model.channels, *self.model.resolution)

    def _check_scale(self) -> None:
        observation = self.options.observation
        if observation is None or not isinstance(observation.scale, list):
            return
        needed = math.prod(self._image_shape())
        if len(observation.scale) != needed:
            raise InvalidManifest(
                f"options of '{self.model.id}': observation.scale has {len(observation.scale)} "
                f"numbers; one is enough, or {needed}, one for each value of an image"
            )

    def _needs_ends(self, parameters: Frames) -> None:
        if parameters.latents is None:
            raise InvalidParameter(
                f"{self.model.id} has no prior to draw ends from; give two images or two latents",
                param="images",
            )

    def _encode(self, jobs: Sequence[Job[Any]]) -> tuple[Mapping[int, Row], Mapping[int, Draw]]:
        """What is told of each distinct image, and its latent at the mean; by image identity."""
        places = unique_images(jobs)
        if not places or self.encoder is None:
            return {}, {}
        by_id = {id(image): image for job in jobs for image in job.images}
        images = to_tensor([by_id[key] for key in places], self.model.pixel_range)
        told = self.encoder.read(images)
        draw = self.encoder.draw(told, torch.zeros(len(places), *self.shape))
        rows = {key: {n: v[i] for n, v in told.items()} for key, i in places.items()}
        return rows, {key: Draw(*(part[i] for part in draw)) for key, i in places.items()}

    def _sample(self, jobs: Sequence[Job[Any]], told: Mapping[int, Row]) -> Mapping[int, Tensor]:
        """Draws of the posterior for the jobs that want one, by place, in one evaluation."""
        places = [i for i, job in enumerate(jobs) if getattr(job.parameters, "sample", False)]
        if not places:
            return {}
        rows = [told[id(jobs[i].images[0])] for i in places]
        noise = torch.stack([self.starts.unit(jobs[i].seed) for i in places])
        return dict(zip(places, self._draw(rows, noise).z, strict=True))

    def _draw(self, rows: Sequence[Row], noise: Tensor) -> Draw:
        """A latent of each image told of."""
        if self.encoder is None:
            raise InvalidNetwork(f"'{self.model.id}' has no encoder; this is a bug")
        told = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return self.encoder.draw(told, noise)

    def _start(
        self,
        job: Job[Any],
        told: Mapping[int, Row],
        means: Mapping[int, Draw],
        sampled: Tensor | None,
    ) -> Trajectory:
        parameters, load, source = job.parameters, self.workload(job), generator(job.seed)
        found = [means[id(image)] for image in job.images]
        codes = [draw.z for draw in found]
        condition: Row = {}
        if job.name == "likelihood":
            return Judgement(
                job=job,
                workload=load,
                x=codes[0],
                generator=source,
                condition=told[id(job.images[0])],
                pixels=torch.from_numpy(job.images[0].astype(np.float32)),
            )
        if isinstance(parameters, Frames):
            z = self.starts.between(parameters, job.index, codes)
        elif isinstance(parameters, LatentTraversal):
            z = self.starts.along(parameters, job.index, codes)
        elif found:
            latent = codes[0] if sampled is None else sampled
            z = self.starts.from_image(parameters, job.seed, latent)
            condition = {"log_variance": found[0].log_variance}
        else:
            z = self.starts.from_prior(parameters, job.seed)
        return Trajectory(job=job, workload=load, x=z, generator=source, condition=condition)

    def _values(self, trajectory: Trajectory) -> dict[str, Any]:
        job = trajectory.job
        values: dict[str, Any] = {"seed": job.seed}
        if isinstance(job.parameters, LatentTraversal):
            values |= traversal_values(job.parameters, job.index)
        return values

    def _encoding(self, trajectory: Trajectory) -> Result:
        latents = Latents.from_array(trajectory.x.numpy()).model_dump()
        if self.kind == "deterministic_encoder":
            return Result(values={"latents": latents, "kind": "code"})
        log_variance = Latents.from_array(trajectory.condition["log_variance"].numpy())
        return Result(
            values={
                "latents": latents,
                "log_variance": log_variance.model_dump(),
                "kind": "posterior_mean",
            }
        )
