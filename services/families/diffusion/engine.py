"""Serving a diffusion model, in pixels or in the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidParameter
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.trajectory import Result, Trajectory, Workload
from services.families.diffusion import native_inpainting
from services.families.diffusion.adapters import LATE as LATE_ADAPTERS
from services.families.diffusion.adapters import Attachments
from services.families.diffusion.classifier import NETWORK as CLASSIFIER
from services.families.diffusion.classifier import ClassifierGuide
from services.families.diffusion.conditioning import conditioner_of
from services.families.diffusion.denoising import denoise
from services.families.diffusion.editing import check_margins, on_canvas
from services.families.diffusion.flights import Judgement, Sampling, advanced
from services.families.diffusion.native_inpainting import MaskedImages
from services.families.diffusion.ode_flight import OdeFlight, ProbabilityFlow
from services.families.diffusion.offers import conditioning_of, operations_of, refusal_of
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.panorama import (
    grows,
    places_of,
    put_together,
    views_of,
    windows_of,
)
from services.families.diffusion.parameters import (
    Encode,
    Generate,
    Likelihood,
    Outpaint,
    Sampled,
)
from services.families.diffusion.posteriors import posteriors
from services.families.diffusion.previews import PreviewMap, declared_map, fitted_map, preview_of
from services.families.diffusion.reading import Reader
from services.families.diffusion.results import Renderer
from services.families.diffusion.starting import Starter
from services.families.diffusion.step_cache import refuse_unless_remembering
from services.families.latent import Frames, check_frames
from services.families.likelihood import reference_set
from services.sampling.samplers import samplers_for, sigma_schedules_for

PANORAMA = "panorama"
"""What images that have grown share the decoder by."""


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
        self.slices = 0
        self.attachments = Attachments(self.model)
        self.reader = Reader(
            self.model.id, self.options, self.conditioner, self.classifier, self.attachments
        )

    def setup(self) -> None:
        """See `Engine.setup`."""
        native = self.options.inpainting == "native"
        inputs = ["x", "t", *self.conditioner.inputs, *(native_inpainting.INPUTS if native else ())]
        self.denoiser: Network = self.model.network("denoiser", inputs=inputs, outputs=[])
        self.conditioner.open(self.denoiser)
        self.renderer = Renderer(self.model, self.options, self.device)
        self.slices = len(self.renderer.tiling.places) if self.renderer.tiling else 0
        self.encoder: Network | None = None
        if self.in_latents and self.has_encoder:
            self.encoder = self.model.network(
                "encoder", inputs=["image"], outputs=["mean", "log_variance"]
            )
        self.shape = self.latent_shape(self._latent_shape(), self.denoiser.inputs["x"])
        self.masked_images: MaskedImages | None = None
        if native:
            self.masked_images = MaskedImages(
                self.model, self.encoder, self.renderer, self.shape, self.device
            )
        self.starter = Starter(
            self.options,
            self.reader,
            self.probability_flow,
            self.attachments,
            self.shape,
            self.model.resolution,
        )
        self.preview_map = self._preview_map() if self.in_latents else None

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(
            conditioning=conditioning_of(self.conditioner.kind, aimed=bool(self.classifier.labels)),
            labels=self.conditioner.labels or self.classifier.labels,
            likelihood="lower_bound" if "likelihood" in self.operations() else "none",
            limits={
                "max_steps": self.options.schedule.max_steps,
                "samplers": list(samplers_for(self.options.schedule)),
                "sigma_schedules": list(sigma_schedules_for(self.options.schedule)),
                "defaults": self.options.defaults.model_dump(),
                "likelihood_methods": [*self._judging_methods()],
                "latent_shape": list(self._latent_shape()),
                **self._vocabulary(),
            },
            reference=reference_set(
                self.options.reference_log_likelihoods, self.options.reference_settings
            ),
        )

    def _latent_shape(self) -> Sequence[int]:
        """Of one image's noise: as the manifest declares it, in pixels where it declares none."""
        space = self.options.latent
        return space.shape if space else [self.model.channels, *self.model.resolution]

    def _vocabulary(self) -> dict[str, Any]:
        """The values of each factor, where a prompt is made of named factors."""
        words = self.options.tokenizer
        if words is None:
            return {}
        return {"factors": {name: list(slot.values) for name, slot in words.slots.items()}}

    def _judging_methods(self) -> tuple[str, ...]:
        offered = "likelihood" in self.operations()
        return ("bound", *self.probability_flow.methods) if offered else ()

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return operations_of(self.options, has_encoder=self.has_encoder)

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        return refusal_of(name, self.model.id, [*self.operations()])

    def jobs(self, call: Call, *, deadline: float | None = None) -> list[Job[Any]]:
        """See `Engine.jobs`; an outpainting becomes the inpainting of a larger canvas."""
        return on_canvas(super().jobs(call, deadline=deadline))

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        self.reader.check(parameters)
        self.attachments.check(call, parameters)
        if isinstance(parameters, Frames):
            check_frames(call, parameters)
        if isinstance(parameters, Outpaint):
            check_margins(parameters, self.model.id, self.model.resolution, self.options)
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
        plan, _ = self.reader.plan(parameters)
        if grows(job):
            growth = places_of(parameters, self.model.resolution, self.options)
            windows = windows_of(growth, self.shape)
            return Workload(
                decode=PANORAMA,
                step="denoiser",
                evaluations=len(plan),
                rows=self.reader.most_rows(parameters) * len(windows.places),
            )
        return Workload(
            decode="image",
            step="denoiser",
            evaluations=len(plan),
            rows=self.reader.most_rows(parameters),
            slices=self.slices,
        )

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        sampled = Generate(steps=REHEARSED_STEPS, sampler="euler", guidance_scale=1.0)
        jobs: list[Job[Any]] = [Job("rehearsal", self.model.id, "generate", sampled)]
        if "likelihood" in self.operations():
            jobs.append(self._judging(Likelihood(steps=REHEARSED_STEPS, samples=1)))
        return jobs

    def _judging(self, parameters: Likelihood) -> Job[Any]:
        """A rehearsal of judging a black image."""
        blank = np.zeros((self.model.channels, *self.model.resolution), np.uint8)
        return Job("rehearsal", self.model.id, "likelihood", parameters, images=(blank,))

    def late_part(self, job: Job[Any]) -> str | None:
        """See `Engine.late_part`: networks with their gradients, and adapters."""
        parameters = job.parameters
        if isinstance(parameters, Likelihood) and parameters.method == "ode":
            return str(self.probability_flow.workload(parameters).step)
        if isinstance(parameters, Sampled) and self.classifier.target(parameters) is not None:
            return CLASSIFIER
        return self.attachments.late_part(job)

    def open_late(self, part: str) -> Sequence[Job[Any]]:
        """See `Engine.open_late`; the classifier's gradient is costed as a row of the denoiser."""
        if part == CLASSIFIER:
            self.classifier.open()
            return ()
        if part.startswith(LATE_ADAPTERS):
            self.attachments.open_late(part)
            return ()
        self.probability_flow.open()
        return [self._judging(self.probability_flow.rehearsal(part))]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images of the whole batch once, then start each row."""
        if any(getattr(job.parameters, "step_cache", None) is not None for job in jobs):
            refuse_unless_remembering(self.denoiser, self.model.id)
        found = posteriors(jobs, self.encoder, self.renderer, self.model.pixel_range, self.device)
        native = self.masked_images
        holes = native.of(jobs) if native is not None else [None] * len(jobs)
        return [
            self.starter.start(
                job, self.workload(job), [found[id(image)] for image in job.images], hole
            )
            for job, hole in zip(jobs, holes, strict=True)
        ]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One evaluation of the denoiser for rows at any level, of any sampler and any task.

        Rows of the probability-flow ODE have an evaluation of their own, with its gradient.
        """
        if isinstance(batch[0], OdeFlight):
            self.probability_flow.step([t for t in batch if isinstance(t, OdeFlight)])
            return
        rows = [t for t in batch if isinstance(t, Sampling | Judgement)]
        seen = [view for t in rows for view in views_of(t)]
        found, verdicts = denoise(
            self.denoiser,
            seen,
            self.options,
            self.classifier,
            self.model.pixel_range,
            self.device,
        )
        denoised, agreed = put_together(rows, found, verdicts)
        sampled = [i for i, t in enumerate(rows) if isinstance(t, Sampling)]
        samplings = [t for t in rows if isinstance(t, Sampling)]
        states = advanced(samplings, [denoised[i] for i in sampled])
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
        if kind == PANORAMA:
            return [self.renderer.panorama(t) for t in batch if isinstance(t, Sampling)]
        return self.renderer.images(batch)

    def decode_slice(self, batch: Sequence[Trajectory]) -> None:
        """See `Engine.decode_slice`: one tile of each latent."""
        for t, part in zip(batch, self.renderer.slice(batch), strict=True):
            t.parts.append(part)

    def noise_level(self, trajectory: Trajectory) -> float | None:
        """See `Engine.noise_level`."""
        if not isinstance(trajectory, Sampling) or trajectory.index == 0:
            return None
        return float(trajectory.plan.next_sigmas[trajectory.index - 1])

    def counts(self) -> Mapping[str, int]:
        """See `Engine.counts`."""
        return self.conditioner.counts()

    def preview(self, trajectory: Trajectory) -> Pixels | None:
        """The denoised image of the last evaluation; of latents, its colours (`PreviewMap`)."""
        if not isinstance(trajectory, Sampling) or trajectory.windows is not None:
            return None
        if self.in_latents and self.preview_map is None:
            return None
        return preview_of(trajectory, self.preview_map, self.model.pixel_range)

    def _preview_map(self) -> PreviewMap | None:
        if self.options.preview is not None:
            return declared_map(self.options.preview, self.model.channels, self.shape[0])
        return fitted_map(self)
