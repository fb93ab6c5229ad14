"""Serving a diffusion model, in pixels or in the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidParameter
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.model import Conditioning, ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import LEVELS
from services.core.trajectory import Result, Trajectory, Workload
from services.families.diffusion.classifier import ClassifierGuide
from services.families.diffusion.conditioning import conditioner_of
from services.families.diffusion.denoising import denoise
from services.families.diffusion.editing import (
    check_margins,
    first_state,
    noise_seed,
    on_canvas,
)
from services.families.diffusion.flights import Judgement, Sampling, advanced
from services.families.diffusion.ode_flight import OdeFlight, ProbabilityFlow
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.parameters import (
    Encode,
    Generate,
    Inpaint,
    Interpolate,
    Invert,
    Likelihood,
    Outpaint,
    Sampled,
    Variation,
)
from services.families.diffusion.posteriors import Posterior, posteriors
from services.families.diffusion.previews import PreviewMap, clamped, declared_map, fitted_map
from services.families.diffusion.results import Renderer
from services.families.diffusion.steering import (
    Condition,
    Steering,
    Words,
    check_end_prompt,
    guidance_of,
    spoken,
    steering,
)
from services.families.latent import Frames, check_frames, generator
from services.sampling.guidance import Guidance
from services.sampling.inversion import make_way
from services.sampling.plan import Plan
from services.sampling.samplers import (
    make_inversion_plan,
    samplers_for,
    sigma_schedules_for,
)
from services.sampling.schedule import VarianceExploding

NEEDS_ENCODER = {"variation", "inpaint", "outpaint", "invert", "encode"}
EVERYTHING: dict[str, type[Parameters]] = {
    "generate": Generate,
    "variation": Variation,
    "inpaint": Inpaint,
    "outpaint": Outpaint,
    "invert": Invert,
    "interpolate": Interpolate,
    "likelihood": Likelihood,
    "encode": Encode,
}


class DiffusionEngine(Engine):
    """A denoiser, with the encoder and decoder of its latent space where it has one."""

    family: ClassVar[str] = "diffusion"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = DiffusionOptions.read(self.model.id, self.model.options)
        self.conditioner = conditioner_of(self.model, self.options)
        self.in_latents = self.options.latent is not None
        self.has_encoder = not self.in_latents or "encoder" in self.model.networks
        self.classifier = ClassifierGuide(self.model, self.options, self.device)
        self.probability_flow = ProbabilityFlow(self.model, self.options, self.device)

    def setup(self) -> None:
        """See `Engine.setup`."""
        inputs = ["x", "t", *self.conditioner.inputs]
        self.denoiser: Network = self.model.network("denoiser", inputs=inputs, outputs=[])
        self.conditioner.open(self.denoiser)
        self.renderer = Renderer(self.model, self.options, self.device)
        self.encoder: Network | None = None
        if self.in_latents and self.has_encoder:
            self.encoder = self.model.network(
                "encoder", inputs=["image"], outputs=["mean", "log_variance"]
            )
        space = self.options.latent
        declared = space.shape if space else [self.model.channels, *self.model.resolution]
        self.shape = self.latent_shape(declared, self.denoiser.inputs["x"])
        self.preview_map = self._preview_map() if self.in_latents else None

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(
            conditioning=self._conditioning(),
            labels=self.conditioner.labels or self.classifier.labels,
            likelihood="lower_bound" if "likelihood" in self.operations() else "none",
            limits={
                "max_steps": self.options.schedule.max_steps,
                "samplers": list(samplers_for(self.options.schedule)),
                "sigma_schedules": list(sigma_schedules_for(self.options.schedule)),
                "defaults": self.options.defaults.model_dump(),
                "likelihood_methods": [*self._judging_methods()],
            },
        )

    def _conditioning(self) -> tuple[Conditioning, ...]:
        kind = self.conditioner.kind
        if not self.classifier.labels or kind == "label":
            return (kind,)
        return ("label",) if kind == "none" else (kind, "label")

    def _judging_methods(self) -> tuple[str, ...]:
        offered = "likelihood" in self.operations()
        return ("bound", *self.probability_flow.methods) if offered else ()

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        judged = self.has_encoder and (not self.in_latents or self.options.observation is not None)
        without = set() if self.has_encoder else NEEDS_ENCODER
        without = without if judged else without | {"likelihood"}
        if isinstance(self.options.schedule, VarianceExploding):
            without = without | {"likelihood", "encode"}  # both end in noise of unit variance
        return {name: kind for name, kind in EVERYTHING.items() if name not in without}

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        offered = f"it offers {', '.join(self.operations())}"
        if name == "reconstruct":
            return (
                f"{self.model.id} does not reconstruct; encode the image and generate from its "
                f"latents, or use a VAE; {offered}"
            )
        return f"{self.model.id} cannot {name}; {offered}"

    def jobs(self, call: Call, *, deadline: float | None = None) -> list[Job[Any]]:
        """See `Engine.jobs`; an outpainting becomes the inpainting of a larger canvas."""
        return on_canvas(super().jobs(call, deadline=deadline))

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        if isinstance(parameters, Sampled):
            self._steering(parameters, read=self._checked)
        else:
            self._checked(*spoken(parameters))
        if isinstance(parameters, Frames):
            check_frames(call, parameters)
        if isinstance(parameters, Outpaint):
            check_margins(parameters, self.model.resolution)
        if isinstance(parameters, Likelihood) and parameters.method == "ode":
            self.probability_flow.check()
        elif isinstance(parameters, Likelihood | Encode):
            limit = self.options.schedule.max_steps - 1
            if parameters.steps > limit:
                raise InvalidParameter(f"steps must be at most {limit}", param="steps")

    def workload(self, job: Job[Any]) -> Workload:
        """All kinds of jobs share the denoiser's evaluations."""
        parameters = job.parameters
        if isinstance(parameters, Likelihood) and parameters.method == "ode":
            return self.probability_flow.workload(parameters)
        if isinstance(parameters, Likelihood):
            count = parameters.steps * parameters.samples
            return Workload(decode="bound", step="denoiser", evaluations=count)
        if isinstance(parameters, Encode):
            return Workload(decode="values", step="denoiser", evaluations=parameters.steps)
        plan, _ = self._way(parameters)
        return Workload(
            decode="image",
            step="denoiser",
            evaluations=len(plan),
            rows=self._steering(parameters, read=lambda _: {}).most_rows,
        )

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        sampled = Generate(steps=REHEARSED_STEPS, sampler="euler", guidance_scale=1.0)
        jobs: list[Job[Any]] = [Job("rehearsal", self.model.id, "generate", sampled)]
        if "likelihood" in self.operations():
            blank = np.zeros((self.model.channels, *self.model.resolution), np.uint8)
            judged = Likelihood(steps=REHEARSED_STEPS, samples=1)
            jobs.append(Job("rehearsal", self.model.id, "likelihood", judged, images=(blank,)))
        return jobs

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images of the whole batch once, then start each row."""
        found = posteriors(jobs, self.encoder, self.renderer, self.model.pixel_range, self.device)
        return [self._start(job, found) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One evaluation of the denoiser for rows at any level, of any sampler and any task.

        Rows of the probability-flow ODE have an evaluation of their own, with its gradient.
        """
        if isinstance(batch[0], OdeFlight):
            self.probability_flow.step([t for t in batch if isinstance(t, OdeFlight)])
            return
        rows = [t for t in batch if isinstance(t, Sampling | Judgement)]
        denoised, agreed = denoise(
            self.denoiser,
            rows,
            self.options,
            self.classifier,
            self.model.pixel_range,
            self.device,
        )
        sampled = [i for i, t in enumerate(rows) if isinstance(t, Sampling)]
        samplings = [t for t in rows if isinstance(t, Sampling)]
        states = advanced(samplings, denoised[sampled]) if samplings else []
        terms = [
            (t, t.term(image))
            for t, image in zip(rows, denoised, strict=True)
            if isinstance(t, Judgement)
        ]
        # Nothing below can fail: a batch is taken whole or not at all.
        for t, state, i in zip(samplings, states, sampled, strict=True):
            t.steering.agreed |= agreed[i]
            t.take(state, denoised[i])
        for judgement, term in terms:
            judgement.take(term)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images, latents or bounds; see `Renderer`."""
        kind = batch[0].workload.decode
        if kind == "bound":
            return self.renderer.bounds([t for t in batch if isinstance(t, Judgement)])
        if kind == "ode":
            return self.renderer.estimates([t for t in batch if isinstance(t, OdeFlight)])
        if kind == "values":
            return [self.renderer.latents(t) for t in batch]
        return self.renderer.images(batch)

    def noise_level(self, trajectory: Trajectory) -> float | None:
        """See `Engine.noise_level`."""
        if not isinstance(trajectory, Sampling) or trajectory.index == 0:
            return None
        return float(trajectory.plan.next_sigmas[trajectory.index - 1])

    def preview(self, trajectory: Trajectory) -> Pixels | None:
        """The denoised image of the last evaluation; of latents, its colours (`PreviewMap`)."""
        if not isinstance(trajectory, Sampling) or trajectory.denoised is None:
            return None
        denoised = trajectory.denoised
        if trajectory.blend is not None:
            denoised = trajectory.blend.apply(denoised, alpha=1.0, sigma=0.0)
        if self.in_latents:
            return self.preview_map.apply(denoised) if self.preview_map else None
        low, high = self.model.pixel_range
        return clamped((denoised.cpu() - low) / (high - low) * (LEVELS - 1))

    def _preview_map(self) -> PreviewMap | None:
        if self.options.preview is not None:
            return declared_map(self.options.preview, self.model.channels, self.shape[0])
        return fitted_map(self)

    def _start(self, job: Job[Any], by_image: Mapping[int, Posterior]) -> Trajectory:
        parameters = job.parameters
        source = generator(noise_seed(job))
        load = self.workload(job)
        found = [by_image[id(image)] for image in job.images]
        if isinstance(parameters, Likelihood):
            condition = self._condition(*spoken(parameters))
            if parameters.method == "ode":
                return self.probability_flow.start(job, load, source, condition, found[0])
            return self._judgement(job, load, source, condition, *found[0])
        if isinstance(parameters, Encode):
            condition = self._condition(*spoken(parameters))
            plan = make_inversion_plan(self.options.schedule, parameters.steps)
            return Sampling(
                job=job,
                workload=load,
                x=found[0][0] * float(plan.alphas[0]),
                generator=source,
                condition=condition,
                steering=Steering(conditions=(condition,), evaluations=len(plan)),
                plan=plan,
            )
        plan, _ = self._way(parameters)
        steering = self._steering(parameters, index=job.index)
        known = found[0][0] if found else None
        x, blend = first_state(job, plan, source, known, self.shape)
        return Sampling(
            job=job,
            workload=load,
            x=x,
            generator=source,
            condition=steering.conditions[0],
            steering=steering,
            plan=plan,
            blend=blend,
        )

    def _judgement(
        self,
        job: Job[Any],
        load: Workload,
        source: torch.Generator,
        condition: Condition,
        mean: Tensor,
        std: Tensor,
    ) -> Judgement:
        judgement = Judgement(
            job=job,
            workload=load,
            x=mean,
            generator=source,
            condition=condition,
            steering=Steering(conditions=(condition,), evaluations=load.evaluations),
            grid=self.options.schedule.bound_grid(job.parameters.steps),
            mean=mean,
            std=std,
            pixels=torch.from_numpy(job.images[0].astype(np.float64)),
            passes=job.parameters.samples,
            uniform=not self.in_latents,
        )
        judgement.begin_pass()
        return judgement

    def _guidance(self, parameters: Sampled) -> Guidance:
        guidance = guidance_of(parameters, self.options.defaults.guidance_scale)
        # Without a condition both branches would hear the same.
        return guidance if self.conditioner.branches else guidance.unscaled()

    def _way(self, parameters: Sampled) -> tuple[Plan, int]:
        """A request's plan, and how many of its evaluations first carry an image to noise.

        Raises:
            InvalidParameter: see `make_way`.
        """
        defaults = self.options.defaults
        part = parameters.strength if isinstance(parameters, Variation | Invert) else 1.0
        return make_way(
            parameters.sampler or defaults.sampler,
            self.options.schedule,
            defaults.steps if parameters.steps is None else parameters.steps,
            parameters.sigma_schedule,
            strength=part,
            inverts=isinstance(parameters, Invert),
        )

    def _steering(
        self,
        parameters: Sampled,
        *,
        index: int = 0,
        read: Callable[[Words], Condition] | None = None,
    ) -> Steering:
        """What the network is told on the way of one row of a request.

        Raises:
            InvalidParameter: words that the model does not know, or guidance that it cannot have.
        """
        if parameters.dynamic_threshold is not None and self.in_latents:
            raise InvalidParameter(
                f"dynamic_threshold holds pixels in their range, and {self.model.id} denoises "
                "latents, which have none; use guidance_rescale",
                param="dynamic_threshold",
            )
        if isinstance(parameters, Interpolate):
            check_end_prompt(parameters, self.model.id, between=self.conditioner.continuous)
        read = read or partial(self._condition, scale=parameters.guidance_scale)
        plan, climb = self._way(parameters)
        return steering(
            parameters,
            index=index,
            evaluations=len(plan),
            climb=climb,
            guidance=self._guidance(parameters),
            target=self.classifier.target(parameters),
            condition=lambda words: read(self._unaimed(words)),
        )

    def _unaimed(self, words: Words) -> Words:
        """Words without the label, where that is for the classifier alone."""
        if self.classifier.labels and self.conditioner.kind != "label":
            return replace(words, label=None)
        return words

    def _condition(self, words: Words, *, scale: float | None = None) -> Condition:
        """What the network is told beside the state and the time.

        Raises:
            InvalidParameter: the model cannot be told this.
        """
        default = self.options.defaults.guidance_scale
        return self.conditioner.condition(words, default if scale is None else scale)

    def _checked(self, words: Words) -> Condition:
        """Nothing but a refusal, for what `_condition` would not read; needs no `setup`."""
        self.conditioner.check(words)
        return {}
