"""Likelihoods of held-out images, as the service estimates them: what percentiles are read off."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from model_store.evaluation.likelihood import observed_log_likelihood
from services.core.network import OpenedModel
from services.core.pixels import LEVELS
from services.sampling.bounds import (
    diffusion_last_term,
    diffusion_prior_term,
    diffusion_term,
    gaussian_entropy,
    gaussian_log_density,
    importance_weighted_bound,
    standard_normal_log_density,
)
from services.sampling.denoiser import to_denoised
from services.sampling.schedule import Schedule

QUANTILES = 101


def quantiles(log_likelihoods: Tensor) -> list[float]:
    """`QUANTILES` ascending, evenly spaced quantiles, from the least to the largest value."""
    places = torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
    return [round(float(q), 4) for q in torch.quantile(log_likelihoods.double(), places)]


def importance_weighted(
    model: OpenedModel, images: Tensor, *, samples: int, generator: torch.Generator
) -> Tensor:
    """The bound that a VAE serves (Burda et al., 2015, eq. 8): ``[n]`` nats.

    Args:
        model: of family ``vae``, with an encoder and an observation model.
        images: ``[n, ...]`` in [-1, 1]; rounded to 8 bits.
        samples: draws from each posterior.
        generator: of the draws.
    """
    images = _rounded(images)
    draw = _posterior(model, images)
    weights = []
    for _ in range(samples):
        z, mean, log_variance = draw(generator)
        reconstruction = _reconstruction(model, images, z)
        prior, density = standard_normal_log_density(z), gaussian_log_density(z, mean, log_variance)
        weights.append(reconstruction + prior - density)
    return importance_weighted_bound(torch.stack(weights, 1))[0]


def _posterior(
    model: OpenedModel, images: Tensor
) -> Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor]]:
    """Draws of a VAE's latents, each with the mean and log variance that it was drawn with."""
    if "hierarchical_encoder" in model.networks:
        network = model.networks["hierarchical_encoder"]
        shape = (len(images), *(side or 0 for side in network.inputs["noise"].shape))

        def down(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            found = network(image=images, noise=torch.randn(shape, generator=generator))
            return found["z"], found["mean"], found["log_variance"]

        return down
    posterior = model.networks["encoder"](image=images)
    mean, log_variance = posterior["mean"], posterior["log_variance"]

    def flat(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn(mean.shape, generator=generator)
        return mean + torch.exp(0.5 * log_variance) * noise, mean, log_variance

    return flat


def variational_bound(
    model: OpenedModel, images: Tensor, *, steps: int, samples: int, generator: torch.Generator
) -> Tensor:
    """The bound that a diffusion serves without a prompt: ``[n]`` nats.

    ``E[log p(image | z)] + E[log p(z)] + H(q(z | image))`` (Kingma and Welling, 2013, eq. 2) with
    the diffusion's own bound of ``log p(z)`` (Kingma et al., 2021, eq. 11). In pixel space z is the
    image, spread uniformly over each pixel's bin, and the first term is absent.

    Args:
        model: of family ``diffusion``.
        images: ``[n, ...]`` in [-1, 1]; rounded to 8 bits.
        steps: terms of the bound.
        samples: independent estimates that are averaged.
        generator: of the draws.
    """
    images = _rounded(images)
    if "latent" not in model.options:
        return _in_pixels(model, images, steps=steps, samples=samples, generator=generator)
    space = model.options["latent"]
    shift, scale = (torch.tensor(space[name]).view(-1, 1, 1) for name in ("shift", "scale"))
    posterior = model.networks["encoder"](image=images)
    mean = (posterior["mean"] - shift) / scale
    std = torch.exp(0.5 * posterior["log_variance"]) / scale
    total = gaussian_entropy(2 * torch.log(std.double()))
    for _ in range(samples):
        clean = mean + std * torch.randn(mean.shape, generator=generator)
        reconstruction = _reconstruction(model, images, clean * scale + shift)
        cost = _diffusion_cost(model, clean, steps, generator)
        total = total + (reconstruction - cost) / samples
    return total


def _in_pixels(
    model: OpenedModel, images: Tensor, *, steps: int, samples: int, generator: torch.Generator
) -> Tensor:
    pixels, width = ((images + 1) * 127.5).round(), 2 / LEVELS
    total = torch.full((len(images),), images[0].numel() * math.log(width))
    for _ in range(samples):
        places = torch.rand(pixels.shape, generator=generator)
        clean = (pixels + places) * width - 1
        total = total - _diffusion_cost(model, clean, steps, generator) / samples
    return total


def _diffusion_cost(
    model: OpenedModel, clean: Tensor, steps: int, generator: torch.Generator
) -> Tensor:
    """The bound of ``-log p(z)``, one draw of the noise at every level."""
    schedule: Schedule = TypeAdapter[Any](Schedule).validate_python(model.options["schedule"])
    grid, denoiser = schedule.bound_grid(steps), model.networks["denoiser"]
    levels = list(zip(grid.alphas.tolist(), grid.sigmas.tolist(), strict=True))
    told = {}
    if "tokens" in denoiser.inputs:
        slots = len(model.options["tokenizer"]["slots"])
        told["tokens"] = torch.zeros(len(clean), slots, dtype=torch.int64)
    cost = diffusion_prior_term(clean, levels[0])
    cost = cost + diffusion_last_term(clean[0].numel(), levels[-1])
    for i, time in enumerate(grid.times.tolist()):
        alpha, sigma = (torch.full((len(clean),), level) for level in levels[i])
        noise = torch.randn(clean.shape, generator=generator)
        x = levels[i][0] * clean + levels[i][1] * noise
        (output,) = denoiser(x=x, t=torch.full((len(clean),), time), **told).values()
        prediction = model.options.get("prediction_type", "epsilon")
        denoised = to_denoised(prediction, x, output, alpha, sigma)
        cost = cost + diffusion_term(clean, denoised, levels[i], levels[i + 1])
    return cost


def _reconstruction(model: OpenedModel, images: Tensor, z: Tensor) -> Tensor:
    decoded = model.networks["decoder"](z=z)["image"]
    declared = model.options["observation"]["scale"]
    scale = (
        torch.tensor(declared, dtype=torch.float64).view(images.shape[1:])
        if isinstance(declared, list)
        else float(declared)
    )
    return observed_log_likelihood(images.double(), decoded.double(), scale)


def _rounded(images: Tensor) -> Tensor:
    """To the values that 8-bit pixels can have."""
    return ((images + 1) * 127.5).round() / 127.5 - 1
