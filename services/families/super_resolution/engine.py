"""Serving a super-resolution diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidManifest, InvalidParameter
from services.core.images import Pixels
from services.core.job import Call, Job
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import to_pixels, to_tensor
from services.core.trajectory import Result, Trajectory, Workload
from services.families.latent import Options, generator
from services.families.super_resolution.parameters import SuperResolve
from services.sampling.denoiser import PredictionType, to_denoised
from services.sampling.enlarging import enlarged
from services.sampling.plan import Plan, advanced
from services.sampling.samplers import SamplerName, make_plan, samplers_for
from services.sampling.schedule import VariancePreserving
from services.sampling.tiling import Tiling, tiling

MOST_SIDE = 256
"""Of an image that is to be enlarged: 121 tiles of 64 pixels at twice its size."""


class Defaults(BaseModel):
    """Settings of a request that names none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: SamplerName = "ddim"
    steps: Annotated[int, Field(ge=1, le=1000)] = 10


class SuperResolutionOptions(Options):
    """Options of a super-resolution model's manifest.

    The manifest's resolution is that of a tile, enlarged. The network is told the enlarged image
    and denoises ``(image - enlarged) / residual_scale``.
    """

    factor: Literal[2, 3, 4] = 2
    residual_scale: Annotated[float, Field(gt=0)]
    prediction_type: PredictionType = "v_prediction"
    schedule: VariancePreserving
    defaults: Defaults = Defaults()


@dataclass(slots=True, eq=False, kw_only=True)
class Enlarging(Trajectory):
    """The missing detail of one image on its way from noise.

    Attributes:
        plan: the sampler's way.
        base: the enlarged image ``[channels, height, width]``, in the network's range.
        tiles: how the network sees it.
        denoised: what the last evaluation made of the detail.
        past: states and denoised details of earlier evaluations, the latest first.
    """

    plan: Plan
    base: Tensor
    tiles: Tiling
    denoised: Tensor | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()

    def take(self, state: Tensor, denoised: Tensor) -> None:
        """Move on to the next state, and remember what later rows refer to."""
        self.denoised = denoised
        self.past = ((self.x, denoised), *self.past)[: self.plan.memory]
        self.commit(state)


class SuperResolutionEngine(Engine):
    """``image = enlarged + residual_scale * detail``, the detail by diffusion, tile by tile."""

    family: ClassVar[str] = "super_resolution"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = SuperResolutionOptions.read(self.model.id, self.model.options)
        height, width = self.model.resolution
        if height != width or height % self.options.factor:
            raise InvalidManifest(
                f"the resolution of '{self.model.id}' is that of a tile, enlarged: a square whose "
                f"side is a multiple of {self.options.factor}, not {height} x {width}"
            )
        self.side = height
        self.least_side = height // self.options.factor
        defaults = self.options.defaults
        make_plan(defaults.sampler, self.options.schedule, defaults.steps)

    def setup(self) -> None:
        """See `Engine.setup`."""
        self.denoiser: Network = self.model.network(
            "denoiser", inputs=["x", "t", "enlarged"], outputs=[]
        )

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(
            conditioning=("image",),
            likelihood="none",
            limits={
                "factor": self.options.factor,
                "input_sides": [self.least_side, MOST_SIDE],
                "max_steps": self.options.schedule.max_steps,
                "samplers": list(samplers_for(self.options.schedule)),
                "defaults": self.options.defaults.model_dump(),
            },
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        return {"super_resolution": SuperResolve}

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        if name == "generate":
            return (
                f"{self.model.id} makes nothing from noise alone; it enlarges an image (edit with "
                "operation super_resolution), or what another model generates (generate with "
                f"cascade '{self.model.id}')"
            )
        return f"{self.model.id} cannot {name}; it offers super_resolution"

    def check(self, call: Call, parameters: Any) -> None:  # noqa: ARG002 - see Engine.check
        """See `Engine.check`."""
        self._plan(parameters)

    def workload(self, job: Job[Any]) -> Workload:
        """Tiles of images of any size share evaluations."""
        height, width = job.images[0].shape[1:]
        factor = self.options.factor
        tiles = tiling(height * factor, width * factor, self.side)
        return Workload(
            decode="image",
            step="denoiser",
            evaluations=len(self._plan(job.parameters)),
            rows=len(tiles.corners),
        )

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        parameters = SuperResolve(steps=REHEARSED_STEPS, sampler="ddim")
        blank = np.zeros((self.model.channels, self.least_side, self.least_side), np.uint8)
        return [
            Job("rehearsal", self.model.id, "super_resolution", parameters, images=(blank,)),
        ]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Enlarge each image, and draw the noise that its detail starts from."""
        return [self._start(job) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One evaluation of the denoiser for the tiles of all rows."""
        rows = [t for t in batch if isinstance(t, Enlarging)]
        counts = [len(t.tiles.corners) for t in rows]
        levels = [(t.plan.times, t.plan.alphas, t.plan.sigmas) for t in rows]
        told = torch.tensor(
            [[float(v[t.index]) for v in level] for t, level in zip(rows, levels, strict=True)],
            dtype=torch.float64,
        )
        times, alphas, sigmas = told.repeat_interleave(torch.tensor(counts), dim=0).unbind(1)
        x = torch.stack([tile for t in rows for tile in t.tiles.cut(t.x)])
        bases = torch.stack([tile for t in rows for tile in t.tiles.cut(t.base)])
        outputs = self.denoiser(
            x=x.to(self.device),
            t=times.float().to(self.device),
            enlarged=bases.to(self.device),
        )
        output = outputs[next(iter(outputs))].cpu()
        denoised = to_denoised(self.options.prediction_type, x, output, alphas, sigmas)
        joined = [
            t.tiles.join(tiles.unbind(0))
            for t, tiles in zip(rows, denoised.split(counts), strict=True)
        ]
        states = [advanced([t], detail[None])[0] for t, detail in zip(rows, joined, strict=True)]
        # Nothing below can fail: a batch is taken whole or not at all.
        for t, state, detail in zip(rows, states, joined, strict=True):
            t.take(state, detail)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """8-bit images of the enlarged size."""
        return [
            Result(self._image(t, t.x), {"seed": t.job.seed})
            for t in batch
            if isinstance(t, Enlarging)
        ]

    def noise_level(self, trajectory: Trajectory) -> float | None:
        """See `Engine.noise_level`."""
        if not isinstance(trajectory, Enlarging) or trajectory.index == 0:
            return None
        return float(trajectory.plan.next_sigmas[trajectory.index - 1])

    def preview(self, trajectory: Trajectory) -> Pixels | None:
        """The image with the detail of the last evaluation."""
        if not isinstance(trajectory, Enlarging) or trajectory.denoised is None:
            return None
        return self._image(trajectory, trajectory.denoised)

    def _image(self, trajectory: Enlarging, detail: Tensor) -> Pixels:
        image = trajectory.base + self.options.residual_scale * detail
        return to_pixels(image[None], self.model.pixel_range)[0]

    def _plan(self, parameters: SuperResolve) -> Plan:
        defaults = self.options.defaults
        return make_plan(
            parameters.sampler or defaults.sampler,
            self.options.schedule,
            defaults.steps if parameters.steps is None else parameters.steps,
        )

    def _start(self, job: Job[Any]) -> Trajectory:
        (image,) = to_tensor([job.images[0]], self.model.pixel_range)
        base = enlarged(image, self.options.factor)
        source = generator(job.seed)
        plan = self._plan(job.parameters)
        return Enlarging(
            job=job,
            workload=self.workload(job),
            x=torch.randn(base.shape, generator=source) * plan.initial_scale,
            generator=source,
            plan=plan,
            base=base,
            tiles=tiling(base.shape[1], base.shape[2], self.side),
        )

    def _images(
        self, call: Call, kind: type[Parameters]
    ) -> tuple[tuple[Pixels, ...], Pixels | None]:
        """The image at its own size, where others are brought to the model's."""
        self._count_images(call, kind)
        pixels = self.image_decoder.image(call.images[0], None, self.model.channels)
        sides = pixels.shape[1:]
        if min(sides) < self.least_side or max(sides) > MOST_SIDE:
            raise InvalidParameter(
                f"{self.model.id} enlarges images with sides from {self.least_side} to {MOST_SIDE} "
                f"pixels, got {sides[1]}x{sides[0]}",
                param="image",
            )
        return (pixels,), None
