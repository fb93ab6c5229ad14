"""Judging an image by the probability-flow ODE: a trajectory from the image to noise.

Each evaluation is one of the network with its vector-Jacobian product, for every row of the batch:
fixed-step trajectories join, share and leave evaluations like any other. An adaptive solver chooses
its own evaluations, so there one evaluation of the loop is a part of the way of each row by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.core.engine import REHEARSED_STEPS
from services.core.errors import UnsupportedTask
from services.core.job import Job
from services.core.network import OpenedModel
from services.core.pixels import require_finite
from services.core.trajectory import Trajectory, Workload
from services.families.diffusion.flights import posterior_noise
from services.families.diffusion.gradients import Gradients
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.parameters import Likelihood
from services.sampling.ode import (
    RK4_NODES,
    RK4_STAGES,
    Budget,
    Point,
    Slope,
    point_at,
    rademacher,
    rk4_change,
    rk4_state,
    slope,
    solve_adaptively,
    velocity_coefficients,
)

NETWORK = "denoiser"
FIXED, ADAPTIVE = "ode", "ode_adaptive"
"""What rows of either solver share their evaluations by; see `Workload.step`."""
ADAPTIVE_PARTS = 16
"""Parts of an adaptive solution; a cancelled one stops after the part under way."""
ADAPTIVE_EVALUATIONS = 2000
"""Most network evaluations of an adaptive solution."""


@dataclass(slots=True, eq=False, kw_only=True)
class OdeFlight(Trajectory):
    """An image on its way to noise, several times over with other noise and another probe.

    All that is random is drawn at the start, for an ODE draws nothing.

    Attributes:
        x: ``[passes, ...]``, float64; where each pass stood when the step under way began.
        mean: of the image in the denoiser's space.
        std: of the same.
        pixels: the image, 0 to 255.
        clean: the draw that each pass began with, before the schedule's least noise.
        probes: ``[passes, ...]``, the signs by which divergences are estimated.
        first: where the way begins.
        log_det: ``[passes]``, the divergence so far.
        slopes: the evaluations of the step under way.
        spent: network evaluations of an adaptive solution so far.
    """

    mean: Tensor
    std: Tensor
    pixels: Tensor
    clean: Sequence[Tensor]
    probes: Tensor
    first: Point
    log_det: Tensor
    slopes: Sequence[Slope] = ()
    spent: int = 0
    passes: int = field(init=False)

    def __post_init__(self) -> None:
        """Count the passes."""
        self.passes = len(self.clean)

    @property
    def step(self) -> float:
        """The length of a fixed step, the whole way being 1."""
        return RK4_STAGES / self.workload.evaluations

    @property
    def way(self) -> float:
        """Where a fixed step is evaluated next."""
        done, stage = divmod(self.index, RK4_STAGES)
        return (done + RK4_NODES[stage]) * RK4_STAGES / self.workload.evaluations

    @property
    def part(self) -> tuple[float, float]:
        """Where the next part of an adaptive solution begins and ends."""
        parts = self.workload.evaluations
        return self.index / parts, (self.index + 1) / parts

    def take(self, found: Slope) -> None:
        """Add an evaluation of a fixed step; the fourth completes it."""
        slopes = (*self.slopes, found)
        if len(slopes) < RK4_STAGES:
            self.slopes = slopes
            self.commit(self.x)
            return
        self.slopes = ()
        self.move(rk4_change(slopes, self.step))

    def move(self, change: Slope) -> None:
        """Go on by a whole step, or a whole part."""
        self.log_det = self.log_det + change.divergence
        self.commit(self.x + change.velocity)


class ProbabilityFlow:
    """Starts and advances the trajectories of one model."""

    def __init__(self, model: OpenedModel, options: DiffusionOptions, device: torch.device) -> None:
        """Open nothing yet."""
        self._model, self._options, self._device = model, options, device
        self._gradients = Gradients(model, NETWORK)

    @property
    def methods(self) -> tuple[str, ...]:
        """``ode`` where the model has a network that can be differentiated, else nothing."""
        return ("ode",) if self._gradients.exist else ()

    def check(self) -> None:
        """Refuse what cannot be done without gradients.

        Raises:
            UnsupportedTask: the model has none; says why and offers the bound.
        """
        if not self.methods:
            raise UnsupportedTask(
                f"the denoiser of {self._model.id} cannot be differentiated (an ONNX graph has no "
                "gradients; a safetensors export of an architecture that ships with Atelier has), "
                "so its likelihood is not estimated by the ODE; ask for method 'bound'",
                param="method",
            )

    def workload(self, parameters: Likelihood) -> Workload:
        """Fixed steps share evaluations with one another, adaptive ones only the turn."""
        if parameters.solver == "dopri5":
            return Workload("ode", ADAPTIVE, ADAPTIVE_PARTS, parameters.probes)
        return Workload("ode", FIXED, RK4_STAGES * parameters.steps, parameters.probes)

    def open(self) -> None:
        """Open the network with its gradients.

        Raises:
            ModelError: its file is missing, changed, or no fit.
        """
        self._gradients.network()

    def rehearsal(self, step: str) -> Likelihood:
        """What the cost of an evaluation is measured by.

        Args:
            step: ``step`` of the workload, `FIXED` or `ADAPTIVE`.
        """
        if step == ADAPTIVE:  # as short as can be: how long a part is depends on the image
            return Likelihood(method="ode", solver="dopri5", tolerance=0.1, probes=1)
        return Likelihood(method="ode", steps=REHEARSED_STEPS // RK4_STAGES, probes=1)

    def start(
        self,
        job: Job[Any],
        load: Workload,
        source: torch.Generator,
        condition: Mapping[str, Tensor],
        posterior: tuple[Tensor, Tensor],
    ) -> OdeFlight:
        """Draw a clean state, the schedule's least noise and a probe for every pass.

        Args:
            job: a likelihood job.
            load: its workload.
            source: its own source of noise.
            condition: what the network is told beside the state and its level.
            posterior: mean and standard deviation of the image in the denoiser's space.
        """
        mean, std = posterior
        first = point_at(self._options.schedule, 0.0)
        clean, states, probes = [], [], []
        for _ in range(job.parameters.probes):
            uniform = self._options.latent is None
            clean.append(mean + std * posterior_noise(mean.shape, source, uniform=uniform))
            noise = torch.randn(mean.shape, generator=source)
            states.append(first.alpha * clean[-1].double() + first.sigma * noise.double())
            probes.append(rademacher(mean.shape, source))
        return OdeFlight(
            job=job,
            workload=load,
            x=torch.stack(states),
            generator=source,
            condition=condition,
            mean=mean,
            std=std,
            pixels=torch.from_numpy(job.images[0].astype(np.float64)),
            clean=clean,
            probes=torch.stack(probes),
            first=first,
            log_det=torch.zeros(len(clean), dtype=torch.float64),
        )

    def step(self, batch: Sequence[OdeFlight]) -> None:
        """One evaluation for all rows of fixed steps, or one part of each adaptive solution."""
        if batch[0].workload.step == FIXED:
            states = [rk4_state(t.x, t.slopes, t.step) for t in batch]
            found = self._slopes(batch, states, [t.way for t in batch])
            for t, evaluated in zip(batch, found, strict=True):
                t.take(evaluated)
            return
        solved = [self._part(t) for t in batch]
        for t, (change, spent) in zip(batch, solved, strict=True):
            t.spent = spent
            t.move(change)

    def _part(self, t: OdeFlight) -> tuple[Slope, int]:
        budget = Budget(ADAPTIVE_EVALUATIONS, t.spent)
        change = solve_adaptively(
            lambda x, way: self._slopes([t], [x], [way])[0],
            t.x,
            t.part,
            tolerance=t.job.parameters.tolerance,
            budget=budget,
        )
        return change, budget.spent

    def _slopes(
        self, batch: Sequence[OdeFlight], states: Sequence[Tensor], ways: Sequence[float]
    ) -> list[Slope]:
        """One evaluation of the network and its products for all passes of all rows."""
        network = self._gradients.network()
        points = [point_at(self._options.schedule, way) for way in ways]
        counts = torch.tensor([t.passes for t in batch])
        times = torch.tensor([point.time for point in points], dtype=torch.float32)
        inputs = {"x": torch.cat([x.float() for x in states])}
        inputs["t"] = times.repeat_interleave(counts)
        for name in batch[0].condition:
            told = torch.stack([t.condition[name] for t in batch])
            inputs[name] = told.repeat_interleave(counts, dim=0)
        output, product = network.vjp(
            {name: value.to(self._device) for name, value in inputs.items()},
            wrt="x",
            output=next(iter(network.outputs)),
            cotangent=torch.cat([t.probes for t in batch]).to(self._device),
        )
        require_finite(output)
        require_finite(product)
        parts = zip(
            batch,
            states,
            points,
            output.cpu().split(counts.tolist()),
            product.cpu().split(counts.tolist()),
            strict=True,
        )
        prediction = self._options.prediction_type
        return [
            slope(x, out, back, t.probes, *velocity_coefficients(prediction, point))
            for t, x, point, out, back in parts
        ]
