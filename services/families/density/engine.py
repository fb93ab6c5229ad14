"""Serving a density in closed form: a Gaussian, a mixture, a naive Bayes classifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from services.core.engine import REHEARSED_STEPS, Engine
from services.core.errors import InvalidNetwork
from services.core.job import Call, Job
from services.core.labels import label_index
from services.core.model import ModelInfo
from services.core.network import Network
from services.core.parameters import Latents, Parameters
from services.core.pixels import BIN_CENTER, LEVELS, from_bins, require_finite, to_bins
from services.core.trajectory import Result, Trajectory, Workload
from services.families.density import parameters as asked
from services.families.latent import (
    Frames,
    Options,
    check_frames,
    ends,
    exact_latents,
    generator,
    latent_from,
)
from services.families.likelihood import Complexity, comparable, judged, reference_set
from services.sampling.bounds import importance_weighted_bound

WEIGHTS_TOLERANCE = 1e-6
REFERENCE_SETTINGS: dict[str, int | str | None] = {"label": None}
"""References are of the likelihood under all components."""


class DensityOptions(Options):
    """Options of a density's manifest.

    Attributes:
        weights: the share of every component, or the prior of every class; they sum to 1.
        labels: names of the classes, where each component is one.
        binary: whether the density is the mass of black and white pixels, which its network makes
            of an image, and not a density of the line.
        reference_log_likelihoods: in nats of the 8-bit image, or of the black and white one.
    """

    weights: Annotated[
        tuple[Annotated[FiniteFloat, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=4096)
    ] = (1.0,)
    labels: tuple[str, ...] = ()
    binary: bool = False
    reference_log_likelihoods: list[float] | None = None
    reference_corrected_bits_per_dim: list[float] | None = None

    @model_validator(mode="after")
    def _components_agree(self) -> Self:
        if abs(sum(self.weights) - 1) > WEIGHTS_TOLERANCE:
            raise ValueError(f"weights must sum to 1, not {sum(self.weights):.9g}")
        if self.labels and len(self.labels) != len(self.weights):
            raise ValueError(f"{len(self.labels)} labels for {len(self.weights)} weights")
        return self


@dataclass(slots=True, eq=False, kw_only=True)
class Judgement(Trajectory):
    """An image whose likelihood is being computed; ``x`` is where in its bin each pixel lies.

    ``log_densities`` has the nats under every component, for each place within the bins.
    """

    log_densities: list[Tensor] = field(default_factory=list)


class DensityEngine(Engine):
    """``log p(x) = log sum_k w_k p_k(x)``, exact, and samples from it.

    As for a flow, 8-bit pixels are bins of the interval that ``pixel_range`` names: their
    likelihood is the density in the bins times the bins' volume. A ``binary`` density is of another
    thing: the probability of the image's black and white form.
    """

    family: ClassVar[str] = "density"

    def read_options(self) -> None:
        """See `Engine.read_options`."""
        self.options = DensityOptions.read(self.model.id, self.model.options)
        weights = torch.tensor(self.options.weights, dtype=torch.float64)
        self.log_weights = weights.log()
        self.cumulated = weights.cumsum(0)
        self.encodes = len(weights) == 1 and not self.options.binary

    def setup(self) -> None:
        """See `Engine.setup`."""
        outputs = ["log_density", "z"] if self.encodes else ["log_density"]
        network = self.model.network
        self.density: Network = network("density", inputs=["x"], outputs=outputs)
        self.sampler: Network = network("sampler", inputs=["z", "component"], outputs=["x"])
        self.shape = self.latent_shape(None, self.sampler.inputs["z"])
        given = self.density.outputs["log_density"].shape
        if given and given != (len(self.log_weights),):
            raise InvalidNetwork(
                f"network 'density' of '{self.model.id}' gives {list(given)} numbers for each "
                f"image; its options have {len(self.log_weights)} weights"
            )

    def describe(self) -> ModelInfo:
        """See `Engine.describe`."""
        labels = self.options.labels
        return self.model_info(
            conditioning=("label",) if labels else ("none",),
            likelihood="exact",
            labels=labels,
            reference=reference_set(
                self.options.reference_log_likelihoods, REFERENCE_SETTINGS if labels else None
            ),
        )

    def operations(self) -> Mapping[str, type[Parameters]]:
        """See `Engine.operations`."""
        labels, binary = self.options.labels, self.options.binary
        judge = asked.Mass if binary else asked.Likelihood
        if labels:
            judge = asked.MassLabeled if binary else asked.LikelihoodLabeled
        if not self.encodes:
            make = asked.GenerateLabeled if labels else asked.Generate
            return {"generate": make, "likelihood": judge}
        return {
            "generate": asked.GenerateLabeled if labels else asked.GenerateSingle,
            "interpolate": asked.Interpolate,
            "likelihood": judge,
            "encode": asked.Encode,
        }

    def refusal(self, name: str) -> str:
        """See `Engine.refusal`."""
        if name not in ("encode", "interpolate", "reconstruct"):
            return f"{self.model.id} cannot {name}; it offers {', '.join(self.operations())}"
        if self.options.binary:
            reason = "keeps of a pixel only whether it is light or dark, so an image has no latent"
        elif not self.encodes:
            reason = (
                f"is a mixture of {len(self.log_weights)} components, and which of them an image "
                "is from is not determined, so it has no single latent"
            )
        else:
            reason = "loses nothing of an image, so there is nothing to reconstruct"
        return f"{self.model.id} {reason}; ask a flow or a VAE to {name}"

    def check(self, call: Call, parameters: Any) -> None:
        """See `Engine.check`."""
        if isinstance(parameters, Frames):
            check_frames(call, parameters)
        label = getattr(parameters, "label", None)
        if label is not None:
            self._label_index(label)

    def workload(self, job: Job[Any]) -> Workload:
        """Likelihood takes one evaluation per sample; all else is one evaluation in all."""
        if job.name == "likelihood":
            samples = getattr(job.parameters, "samples", 1)
            return Workload(decode="likelihood", step="density", evaluations=samples)
        return Workload(decode="values" if job.name == "encode" else "sampler")

    def rehearsal(self) -> Sequence[Job[Any]]:
        """See `Engine.rehearsal`.

        A ``binary`` density has no samples to ask for, and is rehearsed as if it had.
        """
        blank = np.full((self.model.channels, *self.model.resolution), 128, np.uint8)
        judging = asked.Likelihood(samples=REHEARSED_STEPS)
        return [
            Job("rehearsal", self.model.id, "generate", asked.Generate()),
            Job("rehearsal", self.model.id, "likelihood", judging, images=(blank,)),
        ]

    def prepare(self, jobs: Sequence[Job[Any]]) -> list[Trajectory]:
        """Encode the images that have to be, in one batch, then start each row."""
        others = [job for job in jobs if job.name != "likelihood"]
        encoded = exact_latents(others, self.density, self.model.pixel_range, self.device)
        return [self._start(job, encoded) for job in jobs]

    def step(self, batch: Sequence[Trajectory]) -> None:
        """The density of every image under every component, at one place within its bins."""
        rows = [t for t in batch if isinstance(t, Judgement)]
        offsets = torch.stack([self._offsets(t) for t in rows])
        x = to_bins([t.job.images[0] for t in rows], offsets, self.model.pixel_range)
        found = self.density(x=x.to(self.device))["log_density"].cpu().double()
        require_finite(found)
        for row, log_density in zip(rows, found, strict=True):
            row.log_densities.append(log_density)
            row.commit(row.x)

    def decode(self, batch: Sequence[Trajectory]) -> list[Result]:
        """Images for noise, values for encodings and likelihoods."""
        kind = batch[0].workload.decode
        if kind == "likelihood":
            return [self._likelihood(t) for t in batch if isinstance(t, Judgement)]
        if kind == "values":
            latents = [Latents.from_array(t.x.numpy()).model_dump() for t in batch]
            return [Result(values={"latents": found, "kind": "base"}) for found in latents]
        x = self.sampler(
            z=torch.stack([t.x for t in batch]).to(self.device),
            component=torch.stack([t.condition["component"] for t in batch]).to(self.device),
        )["x"]
        pixels = from_bins(x, self.model.pixel_range)
        return [Result(image, self._values(t)) for t, image in zip(batch, pixels, strict=True)]

    def _start(self, job: Job[Any], encoded: Mapping[int, Tensor]) -> Trajectory:
        source = generator(job.seed)
        parameters, load = job.parameters, self.workload(job)
        if job.name == "likelihood":
            center = torch.full(job.images[0].shape, BIN_CENTER)
            return Judgement(job=job, workload=load, x=center, generator=source)
        component = self._component(getattr(parameters, "label", None), source)
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
        elif getattr(parameters, "latents", None) is not None:
            z = latent_from(parameters.latents, self.shape)
        else:
            z = parameters.temperature * torch.randn(self.shape, generator=source)
        condition = {"component": torch.tensor(component)}
        return Trajectory(job=job, workload=load, x=z, generator=source, condition=condition)

    def _component(self, label: int | str | None, source: torch.Generator) -> int:
        """The class that was asked for, else one drawn by its weight; the only one is not drawn."""
        if label is not None:
            return self._label_index(label)
        if len(self.cumulated) == 1:
            return 0
        uniform = torch.rand((), generator=source, dtype=torch.float64)
        drawn = int(torch.searchsorted(self.cumulated, uniform, right=True))
        return min(drawn, len(self.cumulated) - 1)

    def _offsets(self, row: Judgement) -> Tensor:
        """The bin's centre for a single evaluation, else a uniform draw, as a flow's."""
        if row.workload.evaluations == 1:
            return row.x
        uniform: Tensor = torch.special.ndtr(row.noise())
        return uniform.clamp(max=1 - 1 / (1 << 20))

    def _likelihood(self, row: Judgement) -> Result:
        """The mean over the places within the bins of the sum over the components."""
        parameters, count = row.job.parameters, len(row.log_densities)
        low, high = self.model.pixel_range
        dims = row.x.numel()
        log_bin = 0.0 if self.options.binary else dims * math.log((high - low) / LEVELS)
        log_densities = torch.stack(row.log_densities)
        joint = log_densities + self.log_weights
        label = getattr(parameters, "label", None)
        if label is None:
            by_place = torch.logsumexp(joint, dim=1)
        else:
            by_place = log_densities[:, self._label_index(label)]
        mean, error = importance_weighted_bound(by_place[None])
        nats = float(mean)
        given = {name: getattr(parameters, name, None) for name in REFERENCE_SETTINGS}
        result = judged(
            nats + log_bin,
            dims=dims,
            kind="exact" if count == 1 else "estimate",
            terms={"log_mass_of_binary_pixels": nats}
            if self.options.binary
            else {"log_density": nats, "log_bin": log_bin},
            samples=count,
            std_error=0.0 if count == 1 else float(error),
            reference=comparable(self.options.reference_log_likelihoods, REFERENCE_SETTINGS, given),
            complexity=self._complexity(row, given),
        )
        if len(self.log_weights) == 1:
            return result
        return Result(values={**result.values, "posterior": self._posterior(joint)})

    def _complexity(self, row: Judgement, given: Mapping[str, Any]) -> Complexity | None:
        """None for a binary density: a compressor of 256 levels says nothing of two."""
        if self.options.binary:
            return None
        quantiles = self.options.reference_corrected_bits_per_dim
        return Complexity(row.job.images[0], comparable(quantiles, REFERENCE_SETTINGS, given))

    def _posterior(self, joint: Tensor) -> dict[str, float]:
        """``p(k | image)`` by Bayes' rule, by the class's name or the component's number."""
        shares = torch.softmax(torch.logsumexp(joint, dim=0), dim=0).tolist()
        names = self.options.labels or [str(k) for k in range(len(shares))]
        return dict(zip(names, shares, strict=True))

    def _label_index(self, label: int | str) -> int:
        return label_index(label, self.options.labels, model_id=self.model.id)

    def _values(self, trajectory: Trajectory) -> dict[str, Any]:
        values: dict[str, Any] = {"seed": trajectory.job.seed}
        component = int(trajectory.condition["component"])
        if self.options.labels:
            return {**values, "label": self.options.labels[component]}
        return values if len(self.log_weights) == 1 else {**values, "component": component}
