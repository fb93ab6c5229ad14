"""A network as it was exported: its own names, its own shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Dims = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output; ``shape`` has the batch in front, ``None`` where any size goes."""

    name: str
    shape: Dims
    dtype: torch.dtype

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.is_floating_point

    def __str__(self) -> str:
        """As a person would write it: ``name: float32 [n, 64]``."""
        dims = ", ".join("n" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {str(self.dtype).removeprefix('torch.')} [{dims}]"


class Graph(Protocol):
    """Something that can be run on a batch."""

    @property
    def inputs(self) -> Sequence[GraphTensor]:
        """What must be fed."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """Names of what comes out, in order."""
        ...

    @property
    def backend(self) -> str:
        """What runs it, such as ``onnxruntime CPUExecutionProvider``."""
        ...

    @property
    def sizes(self) -> Sequence[int]:
        """Batch sizes that it has to be warmed up for, such as those it is compiled for."""
        ...

    def run(self, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Evaluate; one tensor for each of `outputs`.

        Raises:
            EngineFailure: the computation failed.
            OutOfDeviceMemory: it did not fit.
        """
        ...
