"""Serving a diffusion model, in pixels or in the latents of an autoencoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidParameter
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import LEVELS, to_bins, to_tensor
from services.core.trajectory import Result, Trajectory, Workload
from services.families.diffusion.flights import Blend, Judgement, Sampling, advanced
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.parameters import (
    Conditioned,
    Encode,
    Generate,
    Inpaint,
    Interpolate,
    Likelihood,
    Sampled,
    Variation,
)
from services.families.diffusion.results import Renderer
from services.families.latent import (
    Frames,
    check_frames,
    ends,
    generator,
    latent_from,
    unique_images,
)
from services.sampling.denoiser import to_denoised
from services.sampling.guidance import branch_rows, combine, is_guided
from services.sampling.samplers import SAMPLERS, Plan, make_inversion_plan, make_plan

EVERYTHING: dict[str, type[Parameters]] = {
    "generate": Generate,
    "variation": Variation,
    "inpaint": Inpaint,
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
        self.in_latents = self.options.latent is not None
        self.has_encoder = not self.in_latents or "encoder" in self.model.networks

    def setup(self) -> None:
        """See `Engine.setup`."""
        inputs = ["x", "t", *(["tokens"] if self.options.tokenizer else [])]
        self.denoiser: Network = self.model.network("denoiser", inputs=inputs, outputs=[])
        self.output = next(iter(self.denoiser.outputs))
        self.renderer = Renderer(self.model, self.options, self.device)
        if self.in_latents and self.has_encoder:
            self.encoder: Network = self.model.network(
                "encoder", inputs=["image"], outputs=["mean", "log_variance"]
            )
        space = self.options.latent
        declared = space.shape if space else [self.model.channels, *self.model.resolution]
        self.shape = self.latent_shape(declared, self.denoiser.inputs["x"])

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(
            conditioning=("text",) if self.options.tokenizer else ("none",),
            likelihood="lower_bound" if "likelihood" in self.operations() else "none",
            limits={
                "max_steps": self.options.schedule.max_steps,
                "samplers": list(SAMPLERS),
                "defaults": self.options.defaults.model_dump(),
            },
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        judged = self.has_encoder and (not self.in_latents or self.options.observation is not None)
        without = set() if self.has_encoder else {"variation", "inpaint", "encode"}
        without |= set() if judged else {"likelihood"}
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

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        self._tokens(parameters)
        if isinstance(parameters, Sampled):
            self._plan(parameters)
            self._negative_tokens(parameters)
        if isinstance(parameters, Frames):
            check_frames(call, parameters)
        if isinstance(parameters, Likelihood | Encode):
            limit = self.options.schedule.max_steps - 1
            if parameters.steps > limit:
                raise InvalidParameter(f"steps must be at most {limit}", param="steps")

    def workload(self, job: Job[Any]) -> Workload:
        """All kinds of jobs share the denoiser's evaluations."""
        parameters = job.parameters
        if isinstance(parameters, Likelihood):
            count = parameters.steps * parameters.samples
            return Workload(decode="bound", step="denoiser", evaluations=count)
        if isinstance(parameters, Encode):
            return Workload(decode="values", step="denoiser", evaluations=parameters.steps)
        plan, scale = self._plan(parameters)
        return Workload(
            decode="image",
            step="denoiser",
            evaluations=len(plan),
            rows=2 if is_guided(scale) else 1,
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
        posteriors = self._encode(jobs)
        return [self._start(job, posteriors) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One evaluation of the denoiser for rows at any level, of any sampler and any task."""
        rows = [t for t in batch if isinstance(t, Sampling | Judgement)]
        denoised = self._denoise(rows)
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
            t.past = denoised[i]
            t.commit(state)
        for judgement, term in terms:
            judgement.take(term)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images, latents or bounds; see `Renderer`."""
        kind = batch[0].workload.decode
        if kind == "bound":
            return self.renderer.bounds([t for t in batch if isinstance(t, Judgement)])
        if kind == "values":
            return [self.renderer.latents(t) for t in batch]
        return self.renderer.images(batch)

    def _denoise(self, rows: Sequence[Sampling | Judgement]) -> Tensor:
        """``D(x)`` of every row, guided where the row asks for it: ``[n, ...]`` on the CPU."""
        scales = [t.scale for t in rows]
        guided, _ = branch_rows(scales)
        x = torch.stack([t.x for t in rows])
        levels = [t.level for t in rows]
        times = torch.tensor([level.time for level in levels], dtype=torch.float32)
        inputs = {
            "x": torch.cat([x, x[guided]]) if guided else x,
            "t": torch.cat([times, times[guided]]) if guided else times,
        }
        if self.options.tokenizer:
            tokens = [t.condition["tokens"] for t in rows]
            tokens += [rows[i].condition["negative_tokens"] for i in guided]
            inputs["tokens"] = torch.stack(tokens)
        output = self.denoiser(**{k: v.to(self.device) for k, v in inputs.items()})[self.output]
        return to_denoised(
            self.options.prediction_type,
            x,
            combine(output.cpu(), scales),
            torch.tensor([level.alpha for level in levels], dtype=torch.float64),
            torch.tensor([level.sigma for level in levels], dtype=torch.float64),
        )

    def _encode(self, jobs: Sequence[Job[Any]]) -> dict[int, tuple[Tensor, Tensor]]:
        """Mean and standard deviation of each image in the denoiser's space, by image identity."""
        places = unique_images(jobs)
        if not places:
            return {}
        by_id = {id(image): image for job in jobs for image in job.images}
        images = [by_id[key] for key in places]
        if not self.in_latents:
            centers = torch.full((len(images), *images[0].shape), 0.5)
            mean = to_bins(images, centers, self.model.pixel_range)
            low, high = self.model.pixel_range
            bin_std = (high - low) / LEVELS / math.sqrt(12)
            return {key: (mean[i], torch.full_like(mean[i], bin_std)) for key, i in places.items()}
        pixels = to_tensor(images, self.model.pixel_range)
        output = self.encoder(image=pixels.to(self.device))
        mean, log_variance = output["mean"].cpu(), output["log_variance"].cpu()
        shift, scale = self.renderer.shift, self.renderer.scale
        std = torch.exp(0.5 * log_variance) / scale
        return {key: ((mean[i] - shift) / scale, std[i]) for key, i in places.items()}

    def _start(self, job: Job[Any], posteriors: Mapping[int, tuple[Tensor, Tensor]]) -> Trajectory:
        parameters = job.parameters
        condition = {
            "tokens": self._tokens(parameters),
            "negative_tokens": self._negative_tokens(parameters),
        }
        source = generator(job.seed)
        load = self.workload(job)
        found = [posteriors[id(image)] for image in job.images]
        if isinstance(parameters, Likelihood):
            return self._judgement(job, load, source, condition, *found[0])
        if isinstance(parameters, Encode):
            plan = make_inversion_plan(self.options.schedule, parameters.steps)
            return Sampling(
                job=job,
                workload=load,
                x=found[0][0] * float(plan.alphas[0]),
                generator=source,
                condition=condition,
                plan=plan,
            )
        plan, scale = self._plan(parameters)
        x, blend = self._first_state(job, plan, source, found)
        return Sampling(
            job=job,
            workload=load,
            x=x,
            generator=source,
            condition=condition,
            plan=plan,
            scale=scale,
            blend=blend,
        )

    def _first_state(
        self,
        job: Job[Any],
        plan: Plan,
        source: torch.Generator,
        found: Sequence[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Blend | None]:
        parameters = job.parameters
        if isinstance(parameters, Frames):
            start, end = ends(
                parameters,
                self.shape,
                lambda seed: torch.randn(self.shape, generator=generator(seed)),
                (),
            )
            return parameters.between(start, end, job.index) * plan.initial_scale, None
        if isinstance(parameters, Generate) and parameters.latents is not None:
            return latent_from(parameters.latents, self.shape) * plan.initial_scale, None
        noise = torch.randn(self.shape, generator=source)
        if not found:
            return noise * plan.initial_scale, None
        known = found[0][0]
        x = float(plan.alphas[0]) * known + float(plan.sigmas[0]) * noise
        if job.mask is None:
            return x, None
        mask = torch.from_numpy(job.mask.astype(np.float32) / 255)
        mask = functional.adaptive_max_pool2d(mask, self.shape[-2:])
        return x, Blend(known=known, mask=mask, noise=noise)

    def _judgement(
        self,
        job: Job[Any],
        load: Workload,
        source: torch.Generator,
        condition: Mapping[str, Tensor],
        mean: Tensor,
        std: Tensor,
    ) -> Judgement:
        judgement = Judgement(
            job=job,
            workload=load,
            x=mean,
            generator=source,
            condition=condition,
            grid=self.options.schedule.bound_grid(job.parameters.steps),
            mean=mean,
            std=std,
            pixels=torch.from_numpy(job.images[0].astype(np.float64)),
            passes=job.parameters.samples,
            uniform=not self.in_latents,
        )
        judgement.begin_pass()
        return judgement

    def _plan(self, parameters: Sampled) -> tuple[Plan, float]:
        """The plan that a request asks for, and its guidance scale.

        Raises:
            InvalidParameter: more steps than the schedule has.
        """
        defaults = self.options.defaults
        steps = parameters.steps if parameters.steps is not None else defaults.steps
        try:
            plan = make_plan(parameters.sampler or defaults.sampler, self.options.schedule, steps)
        except ValueError as error:
            raise InvalidParameter(str(error), param="steps") from error
        if isinstance(parameters, Variation):
            kept = min(steps, max(1, round(steps * parameters.strength)))
            plan = plan.from_step(steps - kept)
        if self.options.tokenizer is None:
            return plan, 1.0  # both branches would hear the same
        scale = parameters.guidance_scale
        return plan, defaults.guidance_scale if scale is None else scale

    def _tokens(self, parameters: Conditioned) -> Tensor:
        vocabulary = self.options.tokenizer
        if vocabulary is None:
            if parameters.prompt or parameters.factors:
                raise InvalidParameter(
                    f"{self.model.id} is unconditional and takes no prompt", param="prompt"
                )
            return torch.zeros(0, dtype=torch.int64)
        if parameters.factors is not None:
            if parameters.prompt:
                raise InvalidParameter("give either prompt or factors", param="factors")
            return torch.tensor(vocabulary.tokens(vocabulary.check(parameters.factors)))
        return torch.tensor(vocabulary.tokens(vocabulary.read(parameters.prompt)))

    def _negative_tokens(self, parameters: Any) -> Tensor:
        prompt = getattr(parameters, "negative_prompt", "")
        vocabulary = self.options.tokenizer
        if vocabulary is None:
            if prompt:
                raise InvalidParameter(
                    f"{self.model.id} is unconditional and takes no prompt",
                    param="negative_prompt",
                )
            return torch.zeros(0, dtype=torch.int64)
        return torch.tensor(vocabulary.tokens(vocabulary.read(prompt, param="negative_prompt")))
