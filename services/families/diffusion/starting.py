"""Where each row begins: its first state, its noise, and the way that lies before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.core.job import Job
from services.core.trajectory import Trajectory, Workload
from services.families.diffusion.adapters import Attachments
from services.families.diffusion.editing import first_state, is_from_noise, noise_seed
from services.families.diffusion.flights import Judgement, Sampling
from services.families.diffusion.native_inpainting import Hole
from services.families.diffusion.ode_flight import ProbabilityFlow
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.panorama import grows, places_of, windows_of
from services.families.diffusion.parameters import Encode, Invert, Likelihood
from services.families.diffusion.posteriors import Posterior
from services.families.diffusion.reading import Reader
from services.families.diffusion.steering import Condition, Steering
from services.families.diffusion.step_cache import StepCache
from services.families.latent import generator
from services.sampling.samplers import make_inversion_plan


class Starter:
    """Starts the trajectories of one model."""

    def __init__(
        self,
        options: DiffusionOptions,
        reader: Reader,
        probability_flow: ProbabilityFlow,
        attachments: Attachments,
        shape: tuple[int, ...],
        resolution: tuple[int, int],
    ) -> None:
        """Start nothing yet.

        Args:
            options: the model's.
            reader: of its requests.
            probability_flow: starts the likelihoods by the ODE.
            attachments: the model's adapters.
            shape: of a state.
            resolution: height and width of the model's images.
        """
        self._options, self._reader = options, reader
        self._probability_flow, self._shape = probability_flow, shape
        self._resolution = resolution
        self._attachments = attachments

    def start(
        self, job: Job[Any], load: Workload, found: Sequence[Posterior], hole: Hole | None = None
    ) -> Trajectory:
        """The trajectory of one row; all its noise is its own.

        It is drawn in the order of diffusers' pipelines: a latent of the image where edits begin
        at one, the first noise, a latent of the masked image where the denoiser takes one.

        Args:
            job: the row.
            load: its workload.
            found: where each image of the job lies in the denoised space.
            hole: what the denoiser is told of the image, where it takes that.

        Raises:
            InvalidParameter: words that the model cannot read, or latents of another shape.
        """
        parameters, source = job.parameters, generator(noise_seed(job))
        if isinstance(parameters, Likelihood | Encode):
            told = {**self._reader.condition(parameters), **_beside(hole, source)}
            if isinstance(parameters, Encode):
                return self._encoding(job, load, source, told, found[0])
            if parameters.method == "ode":
                return self._probability_flow.start(job, load, source, told, found[0])
            return self._judgement(job, load, source, told, found[0])
        plan, _ = self._reader.plan(parameters)
        known = None
        if found and not (hole is not None and is_from_noise(job)):
            known = self._known(job, source, found[0])
        shape, windows = self._shape, None
        if known is not None and grows(job):
            growth = places_of(parameters, self._resolution, self._options)
            windows, known = windows_of(growth, shape), growth.around(known)
            shape = (shape[0], *windows.size)
        x, blend = first_state(job, plan, source, known, shape)
        whole, caption = self._reader.completed(parameters, noise_seed(job))
        steering = self._reader.steering(whole, job.index, _beside(hole, source))
        steering.controls = self._attachments.controls(job)
        return Sampling(
            job=job,
            workload=load,
            x=x,
            generator=source,
            condition=steering.conditions[0],
            steering=steering,
            plan=plan,
            blend=blend if hole is None else None,
            windows=windows,
            revised_prompt=caption,
            step_cache=None
            if parameters.step_cache is None
            else StepCache(parameters.step_cache, begins=steering.climb),
        )

    def _known(self, job: Job[Any], source: torch.Generator, posterior: Posterior) -> Tensor:
        """The latent that an edit holds on to or begins at."""
        mean, std = posterior
        space = self._options.latent
        if space is None or not space.sampled or isinstance(job.parameters, Invert):
            return mean
        return mean + std * torch.randn(mean.shape, generator=source)

    def _encoding(
        self,
        job: Job[Any],
        load: Workload,
        source: torch.Generator,
        condition: Condition,
        posterior: Posterior,
    ) -> Sampling:
        plan = make_inversion_plan(self._options.schedule, job.parameters.steps)
        return Sampling(
            job=job,
            workload=load,
            x=posterior[0] * float(plan.alphas[0]),
            generator=source,
            condition=condition,
            steering=Steering(conditions=(condition,), evaluations=len(plan)),
            plan=plan,
        )

    def _judgement(
        self,
        job: Job[Any],
        load: Workload,
        source: torch.Generator,
        condition: Condition,
        posterior: Posterior,
    ) -> Judgement:
        mean, std = posterior
        judgement = Judgement(
            job=job,
            workload=load,
            x=mean,
            generator=source,
            condition=condition,
            steering=Steering(conditions=(condition,), evaluations=load.evaluations),
            grid=self._options.schedule.bound_grid(job.parameters.steps),
            mean=mean,
            std=std,
            pixels=torch.from_numpy(job.images[0].astype(np.float64)),
            passes=job.parameters.samples,
            uniform=self._options.latent is None,
        )
        judgement.begin_pass()
        return judgement


def _beside(hole: Hole | None, source: torch.Generator) -> Condition:
    return {} if hole is None else hole.condition(source)
