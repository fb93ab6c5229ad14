"""Drawing a token from logits: guidance, temperature, top-k, top-p.

Everything works along the last dimension, row by row, in double precision, so that a row's token
does not depend on its company.
"""

from __future__ import annotations

import torch
from torch import Tensor

BELOW_ONE = 1 - 1e-9
"""The largest uniform number that is used: the last token's share must never be rounded away."""


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Logits ``u + s (c - u)`` (Ho and Salimans, 2022, arXiv:2207.12598, eq. 6, s = 1 + w).

    Args:
        conditional: logits under the prompt, ``[n, tokens]``.
        unconditional: logits under none.
        scale: ``[n]``.
    """
    return unconditional + scale[:, None] * (conditional - unconditional)


def filtered(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities of the tokens that may be drawn, float64 ``[n, tokens]``.

    First the temperature, then the k most likely tokens (and those that tie with the last of
    them), then the fewest tokens whose probabilities reach p (Holtzman et al., 2019,
    arXiv:1904.09751).

    Args:
        logits: ``[n, tokens]``, finite.
        temperature: above 0, ``[n]``.
        top_k: int64, ``[n]``; 0 or more than there are tokens: all.
        top_p: in (0, 1], ``[n]``.
    """
    scaled = logits.double() / temperature.double()[:, None]
    ordered, order = scaled.sort(dim=1, descending=True, stable=True)
    count = logits.shape[1]
    kept = torch.where(top_k == 0, count, top_k.clamp(max=count))
    least = ordered.gather(1, kept[:, None] - 1)
    likely = ordered.masked_fill(ordered < least, float("-inf")).softmax(dim=1)
    before = likely.cumsum(dim=1) - likely
    goal = torch.where(top_p < 1, top_p.double(), float("inf"))  # all, in spite of rounding
    reached = before >= goal[:, None]
    reached[:, 0] = False
    nucleus = likely.masked_fill(reached, 0.0)
    nucleus = nucleus / nucleus.sum(dim=1, keepdim=True)
    return torch.zeros_like(nucleus).scatter(1, order, nucleus)


def pick(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes a uniform number: int64 ``[n]``.

    Args:
        probabilities: float64 ``[n, tokens]``, each row with a positive sum.
        uniform: in [0, 1), ``[n]``.
    """
    reached = probabilities.cumsum(dim=1)
    goal = uniform.double().clamp(max=BELOW_ONE) * reached[:, -1]
    return (reached <= goal[:, None]).sum(dim=1)
