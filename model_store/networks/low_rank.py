"""Low-rank deltas of single rows: LoRA without touching the weights that everybody shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.core.errors import EngineFailure


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """``up down``, the change of one layer's weight (Hu et al., 2021, eq. 3), scaled by alpha / r.

    Attributes:
        down: ``[r, in]``, or ``[r, in, height, width]`` for a convolution; float32.
        up: ``[out, r]``, float32.
    """

    down: Tensor
    up: Tensor

    def change(self, layer: nn.Module, x: Tensor) -> Tensor:
        """What the change of the weight adds to the layer's output for ``x``."""
        if not isinstance(layer, nn.Conv2d):
            return functional.linear(functional.linear(x, self.down), self.up)
        hidden = functional.conv2d(
            x, self.down, stride=layer.stride, padding=layer.padding, dilation=layer.dilation
        )
        return functional.conv2d(hidden, self.up[:, :, None, None])


Deltas = Mapping[str, LowRank]
"""The changed layers of a module, by their names inside it."""

RowDeltas = Sequence[tuple[Deltas, float]]
"""What is applied to one row, in this order, with its scales."""

_Part = tuple[int, LowRank, float]


@contextmanager
def low_rank_rows(module: nn.Module, rows: Sequence[RowDeltas]) -> Iterator[None]:
    """Within this block row i of every evaluation of ``module`` has the deltas ``rows[i]``.

    ``y[i] += scale (x[i] down^T) up^T``, one row at a time, so that neither the rows without deltas
    nor the other rows with some have a part in what a row gets, bitwise.

    Raises:
        EngineFailure: the module has no such layer, or evaluates it once for several rows.
    """
    parts: dict[str, list[_Part]] = {}
    for row, deltas in enumerate(rows):
        for layers, scale in deltas:
            for name, delta in layers.items():
                parts.setdefault(name, []).append((row, delta, scale))
    hooks = []
    try:
        for name, applied in parts.items():
            layer = _layer(module, name)
            hooks.append(layer.register_forward_hook(partial(_add, name, applied, len(rows))))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layer(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise EngineFailure(f"the network has no layer '{name}' to adapt") from error


def _add(
    name: str,
    parts: Sequence[_Part],
    rows: int,
    layer: nn.Module,
    inputs: tuple[Any, ...],
    output: Tensor,
) -> Tensor:
    x: Tensor = inputs[0]
    share, rest = divmod(len(x), rows)
    if rest or not share:
        raise EngineFailure(
            f"layer '{name}' is evaluated once for {rows} rows, so it cannot be adapted for one"
        )
    for row, delta, scale in parts:
        own = slice(row * share, (row + 1) * share)
        # A copy: kernels are chosen by how memory is aligned too, which places differ in.
        alone = x[own].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        output[own] += (delta.change(layer, alone) * scale).to(output.dtype)
    return output
