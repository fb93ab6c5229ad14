"""Classifier guidance: a denoised image moved towards a class by a classifier of noisy states."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def class_cotangent(logits: Tensor, classes: Tensor) -> Tensor:
    """The gradient of ``log softmax(logits)[class]`` by the logits: one-hot less the probabilities.

    Args:
        logits: ``[n, classes]``.
        classes: ``[n]``, whole numbers.
    """
    one_hot = functional.one_hot(classes, logits.shape[1]).to(logits.dtype)
    return one_hot - torch.softmax(logits, 1)


def shifted(
    denoised: Tensor, gradients: Tensor, scales: Tensor, alphas: Tensor, sigmas: Tensor
) -> Tensor:
    """``D + s sigma^2 / alpha grad log p(c | x)``.

    Dhariwal and Nichol (2021), algorithm 2: ``eps' = eps - s sigma grad log p(c | x)``, in terms
    of ``D = (x - sigma eps) / alpha``. Adding ``s grad log p(c | x)`` to the score this way fits
    every sampler; to the mean of an ancestral step (eq. 10, algorithm 1) it adds the same to first
    order. With s = 1 and exact networks it is the class's own denoised image. From pure noise,
    where alpha is 0, nothing can be told, and nothing is moved.

    Args:
        denoised: ``[n, ...]``, D.
        gradients: ``[n, ...]``, by the noisy states.
        scales: ``[n]``, s.
        alphas: ``[n]``, signal levels.
        sigmas: ``[n]``, noise levels.
    """
    some = alphas > 0
    factors = torch.where(some, scales * sigmas.square() / torch.where(some, alphas, 1.0), 0.0)
    shape = (-1,) + (1,) * (denoised.dim() - 1)
    return denoised + factors.to(denoised.dtype).view(shape) * gradients
