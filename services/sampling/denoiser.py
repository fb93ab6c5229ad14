"""What a network predicts, turned into what a sampler needs: the denoised image.

Samplers know one contract, ``D(x; alpha, sigma)``: the expected clean image behind a noisy one.
Networks predict the noise, the velocity or the image; each is one linear row away from D, so a
batch of rows at different levels is converted in one expression.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow", "score"]


def denoised_coefficients(
    prediction: PredictionType, alphas: Tensor, sigmas: Tensor
) -> tuple[Tensor, Tensor]:
    """``(p, q)`` such that ``D = p x + q output``.

    Args:
        prediction: ``epsilon``: the noise (Ho et al., 2020); ``v_prediction``:
            ``alpha noise - sigma x_0`` (Salimans and Ho, 2022); ``sample``: x_0; ``flow``:
            ``noise - x_0`` along a straight line (Liu et al., 2022); ``score``: the gradient of the
            states' log-density (Song and Ermon, 2019).
        alphas: ``[n]`` signal levels.
        sigmas: ``[n]`` noise levels.

    Returns:
        Two tensors of shape ``[n]``.
    """
    if prediction == "epsilon":
        return 1 / alphas, -sigmas / alphas
    if prediction == "v_prediction":
        norm = alphas.square() + sigmas.square()
        return alphas / norm, -sigmas / norm
    if prediction == "flow":
        norm = alphas + sigmas
        return 1 / norm, -sigmas / norm
    if prediction == "score":
        return 1 / alphas, sigmas.square() / alphas
    return torch.zeros_like(alphas), torch.ones_like(alphas)


def to_denoised(
    prediction: PredictionType, x: Tensor, output: Tensor, alphas: Tensor, sigmas: Tensor
) -> Tensor:
    """The denoised images ``[n, ...]`` behind states ``x`` for a network's ``output``."""
    p, q = denoised_coefficients(prediction, alphas.double(), sigmas.double())
    shape = (-1,) + (1,) * (x.dim() - 1)
    return p.to(x.dtype).view(shape) * x + q.to(x.dtype).view(shape) * output
