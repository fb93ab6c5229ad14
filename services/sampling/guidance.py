"""Classifier-free guidance with settings per row, where a row costs the branches that it needs.

A row has one conditional branch ``c_i`` per prompt and perhaps an unguided one ``u`` (no prompt, or
the negative one). Several prompts are composed into one conditional output by their weights::

    m = u + sum_i w_i (c_i - u)

(Liu et al., 2022, "Compositional visual generation with composable diffusion models", conjunction),
and guidance leads from the unguided output through it (Ho and Salimans, 2022, eq. 6, s = 1 + w)::

    g = (1 - s) u + s m

With weights that sum to 1, ``m`` does not depend on ``u``; with ``s = 1`` neither does ``g``. Then
the unguided branch is not evaluated at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

UNSCALED = 1.0
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Guidance:
    """How one row is guided.

    Attributes:
        scale: ``s``; 1 is the conditional output itself.
        weights: ``w_i``, one for each prompt.
        interval: the share of the way, ``[start, end)`` in [0, 1], outside of which the scale is 1
            (Kynkäänniemi et al., 2024, who limit it to an interval of noise levels).
        rescale: ``phi`` in [0, 1], how much of the standard deviation that guidance adds is taken
            back (Lin et al., 2023, eq. 15-16).
        agreement: the cosine similarity of ``m`` and ``u`` beyond which the scale is 1 for the rest
            of the way (Castillo et al., 2023, "Adaptive Guidance"); ``None`` for never.
    """

    scale: float = UNSCALED
    weights: tuple[float, ...] = (1.0,)
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    agreement: float | None = None

    @property
    def composes_alone(self) -> bool:
        """Whether the conditional output needs no unguided branch: the weights sum to 1."""
        return math.isclose(sum(self.weights), 1.0, rel_tol=0, abs_tol=_TOLERANCE)

    @property
    def needs_unguided(self) -> bool:
        """Whether the unguided branch has a say."""
        return self.scale != UNSCALED or not self.composes_alone

    @property
    def branches(self) -> int:
        """Network rows of one evaluation: one for each prompt, then the unguided one if needed."""
        return len(self.weights) + self.needs_unguided

    def at(self, share: float, *, agreed: bool = False) -> Guidance:
        """What is in force at a share of the way in [0, 1).

        Args:
            share: how far along the way the row stands.
            agreed: whether both outputs came to agree before, for `agreement`.
        """
        start, end = self.interval
        return self if start <= share < end and not agreed else self.unscaled()

    def unscaled(self) -> Guidance:
        """The same prompts without guidance."""
        return self if self.scale == UNSCALED else replace(self, scale=UNSCALED)


def first_branches(rows: Sequence[Guidance]) -> list[int]:
    """Where each row's branches begin in the network's batch, which holds them row by row."""
    return list(accumulate((row.branches for row in rows), initial=0))[: len(rows)]


def guide(conditional: Tensor, unguided: Tensor, scales: Tensor) -> Tensor:
    """``u + s (m - u)`` (Ho and Salimans, 2022, eq. 6, with ``s = 1 + w``).

    Args:
        conditional: ``[n, ...]`` outputs given the condition.
        unguided: ``[n, ...]`` outputs without it, or given the negative one.
        scales: ``[n]``.
    """
    weights = scales.to(conditional.dtype).view((-1,) + (1,) * (conditional.dim() - 1))
    return unguided + weights * (conditional - unguided)


def compose(branches: Tensor, row: Guidance) -> Tensor:
    """``m`` of one row.

    Args:
        branches: ``[k, ...]``: one output for each prompt, and last the unguided one if needed.
        row: whose weights they are.
    """
    if row.composes_alone:
        base, others, weights = branches[0], branches[1:], row.weights[1:]
    else:
        base, others, weights = branches[-1], branches[:-1], row.weights
    composed = base
    for other, weight in zip(others, weights, strict=False):
        composed = composed + weight * (other - base)
    return composed


def combine(outputs: Tensor, rows: Sequence[Guidance]) -> tuple[Tensor, list[bool]]:
    """One output per row from a network batch that holds each row's branches.

    Every operation is on values of one row alone, or elementwise, so a row's result does not depend
    on its company.

    Args:
        outputs: ``[sum of branches, ...]``, row by row; each row's conditional branches first.
        rows: the guidance in force.

    Returns:
        ``[n, ...]``, and for each row whether ``m`` and ``u`` agree beyond `Guidance.agreement`.
    """
    first = first_branches(rows)
    conditional = outputs[first]
    for i, row in enumerate(rows):
        if len(row.weights) > 1 or not row.composes_alone:
            conditional[i] = compose(outputs[first[i] : first[i] + row.branches], row)
    agreed = [False] * len(rows)
    guided = [i for i, row in enumerate(rows) if row.scale != UNSCALED]
    if not guided:
        return conditional, agreed
    result = conditional.clone()
    unguided = outputs[[first[i] + rows[i].branches - 1 for i in guided]]
    scales = torch.tensor([rows[i].scale for i in guided], device=outputs.device)
    result[guided] = guide(conditional[guided], unguided, scales)
    for i, other in zip(guided, unguided, strict=True):
        row = rows[i]
        if row.rescale:
            result[i] = rescaled(result[i], conditional[i], row.rescale)
        if row.agreement is not None:
            agreed[i] = cosine_similarity(conditional[i], other) > row.agreement
    return result, agreed


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Give a guided output of one row the spread of its conditional one (Lin et al., 2023, 15-16).

    Guidance makes the output's standard deviation grow, and the image overexposed. The same as
    diffusers' ``rescale_noise_cfg``.

    Args:
        guided: ``g``, of any shape.
        conditional: ``m``, of the same shape.
        share: ``phi`` in [0, 1]; 0 leaves the output as it is.
    """
    spread = guided.double().std(correction=0)
    if spread == 0:
        return guided
    ratio = conditional.double().std(correction=0) / spread
    return share * (guided * ratio.to(guided.dtype)) + (1 - share) * guided


def cosine_similarity(first: Tensor, second: Tensor) -> float:
    """Of two outputs of one row, as vectors; in [-1, 1], and 1 where both are zero."""
    a, b = first.double().flatten(), second.double().flatten()
    norms = float((a * a).sum().sqrt() * (b * b).sum().sqrt())
    return float((a * b).sum()) / norms if norms > 0 else 1.0


def dynamically_thresholded(
    image: Tensor, percentile: float, pixel_range: tuple[float, float]
) -> Tensor:
    """A denoised image drawn back into its range (Saharia et al., 2022, section 2.3).

    With pixels in [-1, 1] and ``s`` the percentile of their absolute values, but at least 1, the
    image is clipped to [-s, s] and divided by s.

    Args:
        image: ``D(x)`` of one row, of any shape.
        percentile: in (0, 1], of the pixels that may stand out of the range before all are drawn
            back; 1 is the farthest pixel.
        pixel_range: what takes the place of [-1, 1].
    """
    low, high = pixel_range
    middle, half = (high + low) / 2, (high - low) / 2
    centered = (image - middle) / half
    bound = torch.quantile(centered.abs().flatten(), percentile).clamp_min(1.0)
    return torch.clamp(centered, -bound, bound) / bound * half + middle
