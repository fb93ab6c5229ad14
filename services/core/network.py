"""What an engine sees of an opened model: networks as plain functions on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from services.core.errors import InvalidNetwork


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape without the batch dimension (``None``: any size) and dtype of an input or output."""

    shape: tuple[int | None, ...]
    dtype: torch.dtype


class Network(Protocol):
    """A network, however it was exported.

    Rows are independent: row i of every output depends on row i of the inputs alone, bitwise, at
    every batch size. Where the hardware does not give that by itself, the implementation pads.
    """

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The family's names of the inputs."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The family's names of the outputs."""
        ...

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Evaluate a batch; every tensor has the same leading dimension."""
        ...


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A verified model with its networks ready to run on one device."""

    id: str
    family: str
    description: str
    owned_by: str
    created: int
    resolution: tuple[int, int]
    channels: int
    pixel_range: tuple[float, float]
    networks: Mapping[str, Network]
    options: Mapping[str, Any]
    card: Mapping[str, Any]

    def network(self, name: str, *, inputs: Sequence[str], outputs: Sequence[str]) -> Network:
        """A network that the family cannot do without.

        Raises:
            InvalidNetwork: it is absent, or lacks an input or output that the family needs.
        """
        if name not in self.networks:
            raise InvalidNetwork(
                f"model '{self.id}' of family '{self.family}' needs a network '{name}'; "
                f"its manifest has {sorted(self.networks)}"
            )
        network = self.networks[name]
        missing = [n for n in inputs if n not in network.inputs]
        missing += [n for n in outputs if n not in network.outputs]
        if missing:
            raise InvalidNetwork(
                f"network '{name}' of '{self.id}' lacks {missing}: it takes "
                f"{sorted(network.inputs)} and gives {sorted(network.outputs)}; map other names "
                "with `inputs` and `outputs` in the manifest"
            )
        return network
