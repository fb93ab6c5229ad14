"""Serving a GAN's generator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from services.core.engine import Engine
from services.core.job import Call, Job
from services.core.labels import label_index
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Parameters
from services.core.pixels import to_pixels
from services.core.trajectory import Result, Trajectory, Workload
from services.families.gan.parameters import (
    Generate,
    GenerateLabeled,
    Interpolate,
    InterpolateLabeled,
)
from services.families.latent import (
    Frames,
    LatentSpec,
    Options,
    check_frames,
    ends,
    generator,
    latent_from,
    latent_limits,
)

TRUNCATION_UNIT = 2.0


class GanOptions(Options):
    """Options of a GAN's manifest; the latent's shape is read off the graph when absent."""

    latent: LatentSpec | None = None
    labels: tuple[str, ...] = ()


class GanEngine(Engine):
    """``image = G(z)`` or ``G(z, label)``."""

    family: ClassVar[str] = "gan"

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        return self.model_info(
            conditioning=("label",) if self.options.labels else ("none",),
            likelihood="none",
            labels=self.options.labels,
            limits=latent_limits(self.options.latent),
        )

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = GanOptions.read(self.model.id, self.model.options)

    def setup(self) -> None:
        """See `Engine.setup`."""
        inputs = ["z", "label"] if self.options.labels else ["z"]
        self.generator: Network = self.model.network("generator", inputs=inputs, outputs=["image"])
        self.shape = self.latent_shape(
            self.options.latent.shape if self.options.latent else None, self.generator.inputs["z"]
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        if self.options.labels:
            return {"generate": GenerateLabeled, "interpolate": InterpolateLabeled}
        return {"generate": Generate, "interpolate": Interpolate}

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        if name == "likelihood":
            return (
                f"{self.model.id} is a GAN: its generator turns noise into images but gives no "
                "image a density, so it has no likelihood; ask a flow (exact), a VAE or a "
                "diffusion model (lower bounds)"
            )
        if name == "encode":
            return f"{self.model.id} has no encoder; a VAE, a flow or a diffusion model can encode"
        return f"{self.model.id} cannot {name}; it offers {', '.join(self.operations())}"

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        if isinstance(parameters, Frames):
            check_frames(call, parameters)
        label = getattr(parameters, "label", None)
        if label is not None:
            self._label_index(label)

    def workload(self, job: Job[Any]) -> Workload:  # noqa: ARG002 - all jobs are alike
        """One evaluation, in `decode`."""
        return Workload(decode="generator")

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`."""
        parameters = self.operations()["generate"]()
        return [Job("rehearsal", self.model.id, "generate", parameters)]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Draw latents and labels, each from its job's own seed."""
        return [self._start(job) for job in jobs]

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """``G`` of the whole batch."""
        inputs = {"z": torch.stack([t.x for t in batch]).to(self.device)}
        if self.options.labels:
            inputs["label"] = torch.stack([t.condition["label"] for t in batch]).to(self.device)
        images = self.generator(**inputs)["image"]
        pixels = to_pixels(images, self.model.pixel_range)
        return [Result(image, self._values(t)) for t, image in zip(batch, pixels, strict=True)]

    def _start(self, job: Job[Any]) -> Trajectory:
        source = generator(job.seed)
        parameters = job.parameters
        if isinstance(parameters, Interpolate):
            source = generator(parameters.seed)
            start, end = ends(
                parameters,
                self.shape,
                lambda seed: self._draw(generator(seed), parameters.truncation),
                (),
            )
            z = parameters.between(start, end, job.index)
        elif parameters.latents is not None:
            z = latent_from(parameters.latents, self.shape)
        else:
            z = self._draw(source, parameters.truncation)
        condition = self._condition(getattr(parameters, "label", None), source)
        return Trajectory(
            job=job, workload=self.workload(job), x=z, generator=source, condition=condition
        )

    def _draw(self, source: torch.Generator, truncation: float) -> Tensor:
        """A standard normal latent; truncated by inverting the normal's distribution function."""
        if truncation == 1.0:
            return torch.randn(self.shape, generator=source)
        bound = 0.5 * (1 + math.erf(TRUNCATION_UNIT * truncation / math.sqrt(2)))
        uniform = torch.rand(self.shape, generator=source, dtype=torch.float64)
        quantiles: Tensor = torch.special.ndtri(1 - bound + uniform * (2 * bound - 1))
        return quantiles.float()

    def _condition(self, label: int | str | None, source: torch.Generator) -> dict[str, Tensor]:
        if not self.options.labels:
            return {}
        if label is None:
            return {"label": torch.randint(len(self.options.labels), (), generator=source)}
        return {"label": torch.tensor(self._label_index(label))}

    def _label_index(self, label: int | str) -> int:
        return label_index(label, self.options.labels, model_id=self.model.id)

    def _values(self, trajectory: Trajectory) -> dict[str, Any]:
        values: dict[str, Any] = {"seed": trajectory.job.seed}
        if "label" in trajectory.condition:
            values["label"] = self.options.labels[int(trajectory.condition["label"])]
        return values
