"""One evaluation of the denoiser for rows at any level, each with the branches that it needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from services.core.network import Network
from services.families.diffusion.adapters import evaluated as with_adapters
from services.families.diffusion.classifier import Aimed, ClassifierGuide
from services.families.diffusion.flights import Judgement, Sampling
from services.families.diffusion.options import DiffusionOptions
from services.families.diffusion.step_cache import StepCache, evaluated
from services.sampling.denoiser import to_denoised
from services.sampling.guidance import combine, dynamically_thresholded


def denoise(
    network: Network,
    rows: Sequence[Sampling | Judgement],
    options: DiffusionOptions,
    classifier: ClassifierGuide,
    pixel_range: tuple[float, float],
    device: torch.device,
) -> tuple[Tensor, list[bool]]:
    """``D(x)`` of every row, guided where the row asks for it; the network is evaluated once.

    Args:
        network: the denoiser.
        rows: at least one.
        options: the model's.
        classifier: for the rows that are guided to a class.
        pixel_range: the model's.
        device: of the network.

    Returns:
        ``[n, ...]`` on the CPU, and for each row whether its guided and unguided branches agree;
        see `combine`.
    """
    guidance = [t.steering.guidance_at(t.index) for t in rows]
    branches = [t.steering.branches_at(t.index) for t in rows]
    owners = [i for i, told in enumerate(branches) for _ in told]
    heard = [t.steering.controls_at(t.index) for t in rows]
    x = torch.stack([t.x for t in rows])
    levels = [t.level for t in rows]
    times = torch.tensor([level.time for level in levels], dtype=torch.float32)
    inputs = {"x": x[owners], "t": times[owners]}
    conditions = [condition for told in branches for condition in told]
    inputs |= {name: torch.stack([c[name] for c in conditions]) for name in conditions[0]}
    outputs = evaluated(
        network,
        {name: value.to(device) for name, value in inputs.items()},
        [_step_cache(t) for t in rows],
        [len(told) for told in branches],
        lambda given, places: with_adapters(
            network,
            given,
            [rows[owners[place]].steering.loras for place in places],
            [heard[owners[place]] for place in places],
        ),
    )
    combined, agreed = combine(outputs[next(iter(network.outputs))].cpu(), guidance)
    denoised = to_denoised(
        options.prediction_type,
        x,
        combined,
        torch.tensor([level.alpha for level in levels], dtype=torch.float64),
        torch.tensor([level.sigma for level in levels], dtype=torch.float64),
    )
    aimed = [
        Aimed(i, t.x, level.time, level.alpha, level.sigma, target)
        for i, (t, level) in enumerate(zip(rows, levels, strict=True))
        if (target := t.steering.target_at(t.index)) is not None
    ]
    if aimed:
        denoised = classifier.guided(denoised, aimed)
    return _bounded(denoised, rows, options.clip_sample, pixel_range), agreed


def _step_cache(row: Sampling | Judgement) -> StepCache | None:
    cache = row.step_cache if isinstance(row, Sampling) else None
    return cache if cache is not None and row.index >= cache.begins else None


def _bounded(
    denoised: Tensor,
    rows: Sequence[Sampling | Judgement],
    clip: float | None,
    pixel_range: tuple[float, float],
) -> Tensor:
    """Denoised images as the model's options bound them, or a row's own threshold instead."""
    clipped = denoised if clip is None else denoised.clamp(-clip, clip)
    percentiles = [t.steering.threshold_at(t.index) for t in rows]
    if not any(percentiles):
        return clipped
    return torch.stack(
        [
            image
            if percentile is None
            else dynamically_thresholded(unclipped, percentile, pixel_range)
            for image, unclipped, percentile in zip(clipped, denoised, percentiles, strict=True)
        ]
    )
