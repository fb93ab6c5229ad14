"""Two samplers for rectified-flow networks, just enough to measure a model with.

The server has its own (`services/sampling`); these stand apart, so that a card's numbers depend on
nothing but this file. Time runs from 1 (noise) to 0 (data): ``x = (1 - t) data + t noise`` and the
network's velocity ``v`` is ``noise - data``, so the data it expects is ``x - t v``.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

Sampler = Literal["euler", "dpmpp_2m"]


def guided_data(
    network: nn.Module, x: Tensor, t: float, tokens: Tensor, guidance_scale: float
) -> Tensor:
    """The data that the network expects, with classifier-free guidance.

    ``D = D(null) + guidance_scale (D(tokens) - D(null))`` (Ho and Salimans, 2022, eq. 6).
    """
    times = torch.full((2 * len(x),), t)
    both = torch.cat([tokens, torch.zeros_like(tokens)])
    said, null = network(torch.cat([x, x]), times, both).chunk(2)
    velocity: Tensor = null + guidance_scale * (said - null)
    return x - t * velocity


def sample(
    network: nn.Module,
    noise: Tensor,
    tokens: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    sampler: Sampler = "euler",
) -> Tensor:
    """Carry ``noise`` to data on evenly spaced times.

    ``dpmpp_2m`` is DPM-Solver++(2M) (Lu et al., 2022, arXiv:2211.01095, algorithm 2) with
    alpha = 1 - t and sigma = t.
    """
    times = [1 - i / steps for i in range(steps + 1)]
    x, previous, last_step = noise, None, math.inf
    with torch.no_grad():
        for now, after in itertools.pairwise(times):
            data = guided_data(network, x, now, tokens, guidance_scale)
            blend = data
            step = _log_snr(after) - _log_snr(now)
            if sampler == "dpmpp_2m" and previous is not None and math.isfinite(step + last_step):
                ratio = step / (2 * last_step)
                blend = (1 + ratio) * data - ratio * previous
            if sampler == "euler":
                x = x + (after - now) * (x - data) / now
            else:
                x = (after / now) * x + (1 - after) * -math.expm1(-step) * blend
            previous, last_step = data, step
    return x


def _log_snr(t: float) -> float:
    """``log(alpha / sigma)``: minus infinity at pure noise, infinity at data."""
    if t >= 1:
        return -math.inf
    return math.inf if t <= 0 else math.log((1 - t) / t)
