"""Paths between latents."""

from __future__ import annotations

import torch
from torch import Tensor

PARALLEL = 1e-6


def lerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """The straight line: ``(1 - f) start + f end``."""
    return (1 - fraction) * start + fraction * end


def slerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """The great circle (Shoemake, 1985; White, 2016), on flattened vectors.

    Gaussian latents lie near a sphere, and a straight line between two of them would pass through
    the sparse inside. Parallel vectors fall back to `lerp`.
    """
    a, b = start.double().flatten(), end.double().flatten()
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if torch.sin(angle).abs() < PARALLEL:
        return lerp(start, end, fraction)
    weight_a = torch.sin((1 - fraction) * angle) / torch.sin(angle)
    weight_b = torch.sin(fraction * angle) / torch.sin(angle)
    return (weight_a * a + weight_b * b).view_as(start).to(start.dtype)
