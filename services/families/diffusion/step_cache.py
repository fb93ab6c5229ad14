"""Evaluations that say nearly the same as the one before, mostly left out: asked for by a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from services.core.errors import InvalidParameter
from services.core.network import Network, RememberingNetwork


@dataclass(slots=True, eq=False)
class StepCache:
    """What one trajectory keeps of its last evaluation, for each of its branches.

    What an evaluation finds counts once the trajectory moves on, so that one that is retried after
    a neighbour's fault sees what it saw before.

    Attributes:
        threshold: the share by which a row may have changed since.
        begins: the first evaluation that may be left out or remembered.
        reused: evaluations of branches of which most was left out.
    """

    threshold: float
    begins: int = 0
    reused: int = 0
    _memories: list[Any] = field(default_factory=list)
    _pending: tuple[list[Any], int] | None = None

    def memories(self, branches: int) -> list[Any]:
        """By branch; ``None`` for one that was not evaluated before."""
        return [*self._memories, *[None] * branches][:branches]

    def found(self, memories: Sequence[Any], reused: int) -> None:
        """What the evaluation under way leaves."""
        self._pending = [*memories, *self._memories[len(memories) :]], reused

    def commit(self) -> None:
        """The evaluation counts."""
        if self._pending is not None:
            self._memories, more = self._pending
            self.reused += more
            self._pending = None


Evaluate = Callable[[Mapping[str, Tensor], Sequence[int]], Mapping[str, Tensor]]
"""Evaluates some rows as ever: their inputs, and their places in the batch."""


def evaluated(
    network: Network,
    inputs: Mapping[str, Tensor],
    caches: Sequence[StepCache | None],
    branches: Sequence[int],
    plain: Evaluate,
) -> Mapping[str, Tensor]:
    """One evaluation, of which rows with a cache may leave out most.

    Args:
        network: the denoiser.
        inputs: of all branches of all trajectories, one after the other.
        caches: by trajectory; ``None`` for one that always has everything evaluated.
        branches: of each trajectory.
        plain: evaluates the rows of those.
    """
    owners = [cache for cache, count in zip(caches, branches, strict=True) for _ in range(count)]
    cached = [i for i, cache in enumerate(owners) if cache is not None]
    if not cached or not isinstance(network, RememberingNetwork):
        return plain(inputs, range(len(owners)))
    outputs = _recalled(network, _rows(inputs, cached), caches, branches)
    others = [i for i, cache in enumerate(owners) if cache is None]
    if not others:
        return outputs
    rest = plain(_rows(inputs, others), others)
    order = torch.tensor([*cached, *others]).argsort()
    return {name: torch.cat([outputs[name], rest[name]])[order] for name in rest}


def _recalled(
    network: RememberingNetwork,
    inputs: Mapping[str, Tensor],
    caches: Sequence[StepCache | None],
    branches: Sequence[int],
) -> Mapping[str, Tensor]:
    """The rows of trajectories that have a cache; what is found is left with each."""
    owned = [(c, count) for c, count in zip(caches, branches, strict=True) if c is not None]
    memories = [memory for cache, count in owned for memory in cache.memories(count)]
    thresholds = [cache.threshold for cache, count in owned for _ in range(count)]
    outputs, kept, reused = network.recall(inputs, memories, thresholds)
    start = 0
    for cache, count in owned:
        cache.found(kept[start : start + count], sum(reused[start : start + count]))
        start += count
    return outputs


def _rows(inputs: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    return {name: value[list(rows)] for name, value in inputs.items()}


def refuse_unless_remembering(network: Network, model_id: str) -> None:
    """Refuse a step cache where the denoiser has none; raises `InvalidParameter`."""
    if isinstance(network, RememberingNetwork) and network.remembers:
        return
    raise InvalidParameter(
        f"{model_id} has no step_cache: it leaves out blocks of a transformer that runs on torch, "
        "neither compiled nor in batch buckets; leave the field out",
        param="step_cache",
    )
