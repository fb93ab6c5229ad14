"""Samples of a denoiser by one of the service's plans, in one batch: to measure a model with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.sampling.denoiser import PredictionType, to_denoised
from services.sampling.plan import Plan, advanced

Guide = Callable[[Tensor, Tensor, float, float, float], Tensor]
"""Moves denoised images: from ``(D, x, time, alpha, sigma)`` to D."""


@dataclass
class Walker:
    """A batch of states on its way along a plan; see `services.sampling.plan.Traveller`."""

    plan: Plan
    x: Tensor
    generator: torch.Generator
    index: int = 0
    past: tuple[tuple[Tensor, Tensor], ...] = ()

    def noise(self) -> Tensor:
        """Unit noise of the states' shape."""
        return torch.randn(self.x.shape, generator=self.generator)


@torch.no_grad()
def sample(
    network: nn.Module,
    plan: Plan,
    prediction: PredictionType,
    shape: tuple[int, ...],
    *,
    seed: int,
    guide: Guide | None = None,
    clip: float | None = None,
) -> Tensor:
    """Images of the plan's clean level.

    Args:
        network: takes states and times.
        plan: from noise to image.
        prediction: what the network gives.
        shape: ``[n, channels, h, w]``.
        seed: of all noise; the service seeds every image by itself.
        guide: moves the denoised images of every evaluation, if given.
        clip: denoised images are held between minus this and this, if given.
    """
    generator = torch.Generator().manual_seed(seed)
    walker = Walker(plan, torch.randn(shape, generator=generator) * plan.initial_scale, generator)
    for i in range(len(plan)):
        time, alpha, sigma = (float(v[i]) for v in (plan.times, plan.alphas, plan.sigmas))
        output = network(walker.x, torch.full((shape[0],), time))
        levels = (torch.full((shape[0],), level) for level in (alpha, sigma))
        denoised = to_denoised(prediction, walker.x, output, *levels)
        if guide is not None:
            denoised = guide(denoised, walker.x, time, alpha, sigma)
        if clip is not None:
            denoised = denoised.clamp(-clip, clip)
        state = advanced([walker], denoised[None])[0]
        walker.past = ((walker.x, denoised), *walker.past)[: plan.memory]
        walker.x, walker.index = state, i + 1
    return walker.x
