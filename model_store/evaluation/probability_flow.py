"""Likelihoods of images along the probability-flow ODE, to measure a score model with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from services.sampling.bounds import standard_normal_log_density
from services.sampling.denoiser import PredictionType
from services.sampling.ode import (
    RK4_NODES,
    RK4_STAGES,
    Slope,
    point_at,
    rademacher,
    rk4_change,
    rk4_state,
    slope,
    velocity_coefficients,
)
from services.sampling.schedule import Schedule


def log_likelihood(
    network: nn.Module,
    clean: Tensor,
    schedule: Schedule,
    prediction: PredictionType,
    *,
    steps: int,
    seed: int,
) -> Tensor:
    """An estimate of ``log p(x)``, ``[n]`` nats, by Runge and Kutta's method of fixed steps.

    One draw of the schedule's least noise and one probe of the divergence for each image (Song et
    al., 2021, appendix D.2).

    Args:
        network: takes states and times.
        clean: dequantised images ``[n, ...]`` in the network's range.
        schedule: noise that preserves variance, or a straight flow.
        prediction: what the network gives.
        steps: of four evaluations each.
        seed: of the noise and the probes.
    """
    generator = torch.Generator().manual_seed(seed)
    first = point_at(schedule, 0.0)
    noise = torch.randn(clean.shape, generator=generator)
    x = first.alpha * clean.double() + first.sigma * noise.double()
    probes = rademacher(clean.shape, generator)
    log_det = torch.zeros(len(clean), dtype=torch.float64)
    for i in range(steps):
        slopes: list[Slope] = []
        for node in RK4_NODES[:RK4_STAGES]:
            state = rk4_state(x, slopes, 1 / steps)
            slopes.append(_slope(network, state, probes, schedule, prediction, (i + node) / steps))
        change = rk4_change(slopes, 1 / steps)
        x, log_det = x + change.velocity, log_det + change.divergence
    ends = clean[0].numel() * math.log(first.alpha)
    return standard_normal_log_density(x) + log_det + ends


def _slope(
    network: nn.Module,
    x: Tensor,
    probes: Tensor,
    schedule: Schedule,
    prediction: PredictionType,
    way: float,
) -> Slope:
    point = point_at(schedule, way)
    told = x.float().requires_grad_()
    with torch.enable_grad():
        output = network(told, torch.full((len(x),), point.time))
        (product,) = torch.autograd.grad(output, told, probes)
    a, b = velocity_coefficients(prediction, point)
    return slope(x, output.detach(), product, probes, a, b)
