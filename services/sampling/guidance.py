"""Classifier-free guidance with a scale per row, where unguided rows cost one branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_guided(scale: float) -> bool:
    """Whether a scale needs the unconditional branch: at 1 the two branches cancel to one."""
    return scale != 1.0


def branch_rows(scales: Sequence[float]) -> tuple[list[int], list[int]]:
    """Where each row's branches stand in the network's batch.

    Conditional branches come first, in order; unconditional ones follow for guided rows only.

    Returns:
        ``(guided, unconditional)``: the rows that are guided, and for each of them the place of its
        unconditional branch.
    """
    guided = [i for i, scale in enumerate(scales) if is_guided(scale)]
    return guided, [len(scales) + k for k in range(len(guided))]


def guide(conditional: Tensor, unconditional: Tensor, scales: Tensor) -> Tensor:
    """``D_u + s (D_c - D_u)`` (Ho and Salimans, 2022, eq. 6, with ``s = 1 + w``).

    Args:
        conditional: ``[n, ...]`` outputs given the condition.
        unconditional: ``[n, ...]`` outputs without it, or given the negative one.
        scales: ``[n]``.
    """
    weights = scales.to(conditional.dtype).view((-1,) + (1,) * (conditional.dim() - 1))
    return unconditional + weights * (conditional - unconditional)


def combine(outputs: Tensor, scales: Sequence[float]) -> Tensor:
    """One guided output per row from a network batch laid out by `branch_rows`."""
    guided, unconditional = branch_rows(scales)
    rows = outputs[: len(scales)]
    if not guided:
        return rows
    rows = rows.clone()
    weights = torch.tensor([scales[i] for i in guided], device=outputs.device)
    rows[guided] = guide(rows[guided], outputs[unconditional], weights)
    return rows
