"""What control networks add to a UNet's skip connections and its middle block, row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from services.core.errors import EngineFailure

NOTHING = -0.0
"""Added to a number it leaves every bit of it: ``-0.0 + 0.0`` would lose a sign."""

Shapes = tuple[tuple[int, ...], ...]


def flattened(residuals: Sequence[Tensor]) -> Tensor:
    """Residuals ``[n, ...]`` of a UNet, the middle block's last, as one row of numbers each."""
    return torch.cat([residual.flatten(1) for residual in residuals], 1)


@contextmanager
def recorded_shapes(unet: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """The shapes, without the batch, of what a UNet's evaluation within this block can be added to.

    Raises:
        EngineFailure: it is no UNet of that kind.
    """
    found: list[tuple[int, ...]] = []

    def first(module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ARG001 - a hook's
        found.append(tuple(output.shape[1:]))

    def block(module: nn.Module, inputs: Any, output: tuple[Tensor, Any]) -> None:  # noqa: ARG001
        found.extend(tuple(skip.shape[1:]) for skip in output[1])

    parts = [getattr(unet, name, None) for name in ("conv_in", "down_blocks", "mid_block")]
    conv_in, down_blocks, mid_block = parts
    if not isinstance(conv_in, nn.Module) or not isinstance(mid_block, nn.Module):
        raise EngineFailure("only a UNet with a middle block takes a ControlNet")
    with ExitStack() as hooks:
        for part in (conv_in, mid_block):
            hooks.callback(part.register_forward_hook(first).remove)
        for down in down_blocks or ():
            hooks.callback(down.register_forward_hook(block).remove)
        yield found


@contextmanager
def added_residuals(unet: nn.Module, rows: Tensor, shapes: Shapes) -> Iterator[None]:
    """Within this block row i of every evaluation of ``unet`` gets ``rows[i]`` added.

    Args:
        unet: a ``UNet2DConditionModel``.
        rows: ``[n, numbers]``, as `flattened` makes them.
        shapes: as `recorded_shapes` found them.

    Raises:
        EngineFailure: there are more or fewer numbers than the UNet takes.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if rows.shape[1] != sum(sizes):
        raise EngineFailure(
            f"a ControlNet gives {rows.shape[1]} numbers, the UNet takes {sum(sizes)}"
        )
    dtype = next(unet.parameters()).dtype
    parts = [
        part.view(len(rows), *shape).to(dtype)
        for part, shape in zip(rows.split(sizes, 1), shapes, strict=True)
    ]

    def inject(
        module: nn.Module,  # noqa: ARG001 - a hook's
        positional: tuple[Any, ...],
        named: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        added = {
            "down_block_additional_residuals": tuple(parts[:-1]),
            "mid_block_additional_residual": parts[-1],
        }
        return positional, {**named, **added}

    hook = unet.register_forward_pre_hook(inject, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
