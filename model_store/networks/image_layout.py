"""The orders in which frameworks lay out an image, and the way to ours: ``[n, c, h, w]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from model_store.networks.graph import Dims
from services.core.errors import InvalidNetwork

Order = Literal["nchw", "nhwc"]


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a model's images."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.channels, self.height, self.width

    @property
    def last(self) -> tuple[int, int, int]:
        """``(height, width, channels)``, TensorFlow's order."""
        return self.height, self.width, self.channels


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """How a graph lays out one image: ``shape`` of a row, channels first or last in memory."""

    frame: Frame
    order: Order
    shape: tuple[int, ...]

    def to_graph(self, images: Tensor) -> Tensor:
        """``[n, c, h, w]`` to the graph's own layout."""
        ordered = images if self.order == "nchw" else images.permute(0, 2, 3, 1)
        return ordered.reshape(len(images), *self.shape)

    def from_graph(self, values: Tensor) -> Tensor:
        """The graph's own layout to ``[n, c, h, w]``."""
        if self.order == "nchw":
            return values.reshape(len(values), *self.frame.shape)
        return values.reshape(len(values), *self.frame.last).permute(0, 3, 1, 2).contiguous()


def find_layout(row: Dims, frame: Frame, order: Order | None, what: str) -> ImageLayout:
    """The layout of a row of shape ``row``, ``None`` standing for any size.

    Raises:
        InvalidNetwork: no layout of the manifest's resolution and channels has that shape, or
            more than one has and ``order`` does not decide.
    """
    found = [layout for layout in _layouts(row, frame) if order in (None, layout.order)]
    if not found:
        raise InvalidNetwork(
            f"{what} has rows of shape {_shown(row)}; the manifest's resolution "
            f"[{frame.height}, {frame.width}] and channels {frame.channels} need "
            f"{list(frame.shape)}, {list(frame.last)} or [{math.prod(frame.shape)}]"
        )
    if len(found) > 1 and not _same_memory(frame) and None not in row:
        raise InvalidNetwork(
            f"{what} has rows of shape {_shown(row)}, which may be channels first or channels "
            "last; say which with `image_layout: nchw` or `nhwc` in the manifest"
        )
    return found[0]


def _layouts(row: Dims, frame: Frame) -> Sequence[ImageLayout]:
    flat = (math.prod(frame.shape),)
    shapes: list[tuple[Order, tuple[int, ...]]] = [
        ("nchw", frame.shape),
        ("nhwc", frame.last),
        ("nchw", flat),
        ("nhwc", flat),
    ]
    if frame.channels == 1:
        shapes.append(("nchw", (frame.height, frame.width)))
    return [ImageLayout(frame, order, shape) for order, shape in shapes if _fits(row, shape)]


def _fits(row: Dims, shape: tuple[int, ...]) -> bool:
    if len(row) != len(shape):
        return False
    return all(d in (None, s) for d, s in zip(row, shape, strict=True))


def _same_memory(frame: Frame) -> bool:
    return frame.channels == 1 or frame.height * frame.width == 1


def _shown(row: Dims) -> str:
    return "[" + ", ".join("any" if d is None else str(d) for d in row) + "]"
