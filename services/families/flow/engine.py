"""Serving a normalizing flow in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidNetwork
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network, TensorSpec
from services.core.parameters import Latents, Parameters
from services.core.pixels import BIN_CENTER, LEVELS, bin_centers, from_bins, require_finite, to_bins
from services.core.trajectory import Result, Trajectory, Workload
from services.families.flow.parameters import (
    Encode,
    Generate,
    Interpolate,
    Likelihood,
    Reconstruct,
)
from services.families.flow.stepwise import (
    Judgement,
    Stepwise,
    Unfolding,
    answer,
    log_determinant,
)
from services.families.latent import (
    Frames,
    LatentSpec,
    Options,
    check_frames,
    drawn,
    ends,
    exact_latents,
    generator,
    latent_limits,
)
from services.families.likelihood import Complexity, judged, reference_set
from services.sampling.bounds import importance_weighted_bound, standard_normal_log_density

MAX_STEPS = 1 << 16

Steps = Annotated[int, Field(ge=REHEARSED_STEPS, le=MAX_STEPS)]


class FlowOptions(Options):
    """Options of a flow's manifest; the references are in nats of the 8-bit image.

    Attributes:
        latent: the shape of ``z``.
        forward_steps: evaluations of the network ``forward_step`` that make a pass from an image to
            its latent; absent where the network ``forward`` makes it in one.
        inverse_steps: the same of ``inverse_step``, from a latent to its image.
        reference_log_likelihoods: ascending quantiles.
    """

    latent: LatentSpec | None = None
    forward_steps: Steps | None = None
    inverse_steps: Steps | None = None
    reference_log_likelihoods: list[float] | None = None
    reference_corrected_bits_per_dim: list[float] | None = None

    @model_validator(mode="after")
    def _one_direction_is_quick(self) -> Self:
        if self.forward_steps is not None and self.inverse_steps is not None:
            raise ValueError("give forward_steps or inverse_steps: one direction takes one step")
        return self


class FlowEngine(Engine):
    """``log p(x) = log p(z) + log |det dz/dx|`` with ``z = f(x)`` (Dinh et al., 2017, eq. 2).

    8-bit pixels are bins of the interval that ``pixel_range`` names, so ``pixel_range`` of a flow
    runs from the lower edge of bin 0 to the upper edge of bin 255.

    A flow of autoregressive layers is quick in one direction and stepwise in the other: that one is
    a network which finds a value at each evaluation of the loop (see `stepwise`).
    """

    family: ClassVar[str] = "flow"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = FlowOptions.read(self.model.id, self.model.options)

    def setup(self) -> None:
        """See `Engine.setup`."""
        network, options = self.model.network, self.options
        self.stepwise: Stepwise | None = None
        if options.forward_steps is not None:
            self.stepwise = self._open_stepwise("forward_step", options.forward_steps)
        else:
            self.forward: Network = network("forward", inputs=["x"], outputs=["z", "log_det"])
        if options.inverse_steps is not None:
            self.stepwise = self._open_stepwise("inverse_step", options.inverse_steps)
        else:
            self.inverse: Network = network("inverse", inputs=["z"], outputs=["x"])
        declared = options.latent.shape if options.latent else None
        self.shape = self.latent_shape(declared, self._latent_spec())

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(
            conditioning=("none",),
            likelihood="exact",
            limits=latent_limits(self.options.latent),
            reference=reference_set(self.options.reference_log_likelihoods),
        )

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
        """Likelihood takes one forward pass per sample; all else one pass in each direction.

        A quick pass forward is part of `prepare`, and a quick pass back of `decode`.
        """
        forward, back = self.options.forward_steps, self.options.inverse_steps
        if job.name == "likelihood":
            step, each = ("forward", 1) if forward is None else ("forward_step", forward)
            evaluations = each * job.parameters.samples
            return Workload(decode="likelihood", step=step, evaluations=evaluations)
        decode = "values" if job.name == "encode" else "inverse"
        if forward is not None and job.images:
            rows = len(job.images)
            return Workload(decode=decode, step="forward_step", evaluations=forward, rows=rows)
        if back is not None and decode == "inverse":
            return Workload(decode="found", step="inverse_step", evaluations=back)
        return Workload(decode=decode)

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        blank = np.full((self.model.channels, *self.model.resolution), 128, np.uint8)
        made = Job("rehearsal", self.model.id, "generate", Generate())
        if self.options.forward_steps is not None:
            return [made, Job("rehearsal", self.model.id, "encode", Encode(), images=(blank,))]
        judged = Likelihood(samples=REHEARSED_STEPS)
        return [made, Job("rehearsal", self.model.id, "likelihood", judged, images=(blank,))]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images that have to be, in one batch, then start each row."""
        quick = [job for job in jobs if job.name != "likelihood"]
        encoded = {}
        if self.options.forward_steps is None:
            encoded = exact_latents(quick, self.forward, self.model.pixel_range, self.device)
        return [self._start(job, encoded) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One density of every image, or one value more of everything that is found stepwise."""
        if self.stepwise is not None and batch[0].workload.step != "forward":
            self._advance(self.stepwise, batch)
            return
        rows = [t for t in batch if isinstance(t, Judgement)]
        output = self.forward(x=self._within_bins(rows).to(self.device))
        self._take(rows, output["z"].cpu(), output["log_det"].cpu().double().flatten())
        for row in rows:
            row.commit(row.x)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images for latents, values for encodings and likelihoods."""
        kind = batch[0].workload.decode
        if kind == "likelihood":
            return [self._likelihood(t) for t in batch if isinstance(t, Judgement)]
        if kind == "values":
            latents = [Latents.from_array(self._latent(t).numpy()).model_dump() for t in batch]
            return [Result(values={"latents": found, "kind": "base"}) for found in latents]
        if kind == "found":
            x = torch.stack([answer(t.x)[0] for t in batch]).view(-1, *self._image_shape())
        else:
            x = self.inverse(z=torch.stack([self._latent(t) for t in batch]).to(self.device))["x"]
        pixels = from_bins(x, self.model.pixel_range)
        return [Result(image, {"seed": t.job.seed}) for t, image in zip(batch, pixels, strict=True)]

    def _open_stepwise(self, name: str, evaluations: int) -> Stepwise:
        """A direction in many evaluations, of as many values as an image has."""
        found = Stepwise(self.model, name, evaluations, self.device)
        values = math.prod(self._image_shape())
        if found.dims != values:
            raise InvalidNetwork(
                f"network '{name}' of '{self.model.id}' finds {found.dims} values; its images have "
                f"{values}"
            )
        return found

    def _image_shape(self) -> tuple[int, ...]:
        return (self.model.channels, *self.model.resolution)

    def _latent_spec(self) -> TensorSpec:
        if self.options.inverse_steps is None:
            return self.inverse.inputs["z"]
        return self.forward.outputs["z"]

    def _advance(self, stepwise: Stepwise, batch: Sequence[Trajectory]) -> None:
        """One evaluation of the stepwise direction; a judgement begins and ends passes."""
        places = [t.index % stepwise.evaluations for t in batch]
        states = [self._state(stepwise, t, place) for t, place in zip(batch, places, strict=True)]
        found = stepwise.advance(states, places)
        require_finite(torch.cat(found))
        pairs = list(zip(batch, places, found, strict=True))
        done = [
            (t, state)
            for t, place, state in pairs
            if isinstance(t, Judgement) and place == stepwise.evaluations - 1
        ]
        if done:
            last = torch.cat([state for _, state in done])
            self._take([t for t, _ in done], answer(last), log_determinant(last))
        for trajectory, _, state in pairs:
            if isinstance(trajectory, Judgement):
                trajectory.state = state
                trajectory.commit(trajectory.x)
            else:
                trajectory.commit(state)

    def _state(self, stepwise: Stepwise, trajectory: Trajectory, place: int) -> Tensor:
        if not isinstance(trajectory, Judgement):
            return trajectory.x
        if trajectory.state is None or place == 0:
            return stepwise.begin(self._within_bins([trajectory]))
        return trajectory.state

    def _within_bins(self, rows: Sequence[Judgement]) -> Tensor:
        """Every image at one place within its pixels' bins."""
        offsets = torch.stack([self._offsets(t) for t in rows])
        return to_bins([t.job.images[0] for t in rows], offsets, self.model.pixel_range)

    def _take(self, rows: Sequence[Judgement], z: Tensor, log_det: Tensor) -> None:
        """Keep the terms of one density of every image."""
        log_prior = standard_normal_log_density(z.double())
        require_finite(log_prior + log_det)
        for row, prior, det in zip(rows, log_prior.tolist(), log_det.tolist(), strict=True):
            row.log_priors.append(prior)
            row.log_dets.append(det)

    def _latent(self, trajectory: Trajectory) -> Tensor:
        """The latent of a trajectory whose image is made, or whose images were encoded stepwise."""
        if not isinstance(trajectory, Unfolding):
            return trajectory.x
        found: list[Tensor] = list(answer(trajectory.x).reshape(-1, *self.shape))
        parameters: Parameters = trajectory.job.parameters
        if isinstance(parameters, Frames):
            start, end = found
            return parameters.between(start, end, trajectory.job.index)
        (only,) = found
        return only

    def _start(self, job: Job[Any], encoded: Mapping[int, Tensor]) -> Trajectory:
        source = generator(job.seed)
        parameters, load = job.parameters, self.workload(job)
        if job.name == "likelihood":
            center = torch.full(job.images[0].shape, BIN_CENTER)
            return Judgement(job=job, workload=load, x=center, generator=source)
        if self.stepwise is not None and load.step == "forward_step":
            images = bin_centers(job.images, self.model.pixel_range)
            state = self.stepwise.begin(images)
            return Unfolding(job=job, workload=load, x=state, generator=source)
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
        if self.stepwise is not None and load.step == "inverse_step":
            state = self.stepwise.begin(z[None])
            return Unfolding(job=job, workload=load, x=state, generator=source)
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
            complexity=Complexity(row.job.images[0], self.options.reference_corrected_bits_per_dim),
        )
