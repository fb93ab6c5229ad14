"""A graph under the family's names: the `services.core.network.Network` that engines see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model_store.networks.binding import Bound, Declared, bind_inputs, bind_outputs
from model_store.networks.graph import Graph, GraphTensor
from model_store.networks.row_plan import PROBED_ROWS, RowPlan, candidates, find_plan
from services.core.errors import EngineFailure, InvalidNetwork
from services.core.network import TensorSpec


class ExportedNetwork:
    """Converts, pads and runs; see `services.core.network.Network` for what it promises.

    Attributes:
        plan: how many rows the graph is given at once, as probing found necessary.
        classes: labels that a one-hot input distinguishes, by input.
    """

    def __init__(self, graph: Graph, declared: Declared, device: torch.device) -> None:
        """Bind ``graph`` by one run of it; it keeps its promise once it has a probed plan.

        Raises:
            InvalidNetwork: its inputs and outputs are not what the family needs.
        """
        self.name = declared.name
        self.device = device
        self._graph = graph
        self._inputs = bind_inputs(declared, graph.inputs)
        self.static_batch = _static_batch(declared.name, graph.inputs)
        self._outputs: tuple[Bound, ...] = ()
        self._outputs = bind_outputs(declared, self._observe())
        self._places = [graph.outputs.index(bound.graph) for bound in self._outputs]
        self.classes = {b.name: b.classes for b in self._inputs if b.classes is not None}
        self.plan = candidates(self.static_batch)[0]

    def probe(self) -> None:
        """Find the cheapest plan under which rows do not show their company."""
        self.plan = find_plan(self._run, self.random_rows(PROBED_ROWS), self.static_batch)

    def take_plan(self, plan: RowPlan | None) -> bool:
        """Take a plan that was found before, if it is one that this graph can have."""
        if plan is None or plan not in candidates(self.static_batch):
            return False
        self.plan = plan
        return True

    @property
    def backend(self) -> str:
        """What runs it."""
        return self._graph.backend

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The family's names of the inputs."""
        return {bound.name: bound.spec for bound in self._inputs}

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The family's names of the outputs."""
        return {bound.name: bound.spec for bound in self._outputs}

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Evaluate a batch; every tensor has the same leading dimension.

        Raises:
            EngineFailure: a tensor is missing, not known or of another shape, or the run failed.
        """
        self._check(inputs)
        values = self.plan.run(self._run, inputs)
        return {
            bound.name: value.to(self.device)
            for bound, value in zip(self._outputs, values, strict=True)
        }

    def random_rows(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        """Inputs that any network of this signature takes: noise, times in [0, 1), zeros."""
        generator = torch.Generator().manual_seed(seed)
        rows = {}
        for name, spec in self.inputs.items():
            shape = (count, *(d or 1 for d in spec.shape))
            if not spec.dtype.is_floating_point:
                rows[name] = torch.zeros(shape, dtype=spec.dtype)
            elif spec.shape:
                rows[name] = torch.randn(shape, generator=generator)
            else:
                rows[name] = torch.rand(shape, generator=generator)
        return {name: value.to(self.device) for name, value in rows.items()}

    def _run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        feeds = {bound.graph: bound.convert(inputs[bound.name]) for bound in self._inputs}
        values = self._graph.run(feeds)
        rows = len(next(iter(inputs.values())))
        outputs = [b.convert(values[p]) for b, p in zip(self._outputs, self._places, strict=True)]
        if any(len(output) != rows for output in outputs):
            raise EngineFailure(
                f"network '{self.name}' gave {[len(o) for o in outputs]} rows for {rows}; its "
                "batch dimension is not dynamic: export it so, or with a static batch declared"
            )
        return outputs

    def _observe(self) -> list[GraphTensor]:
        """The outputs as a first run gives them; this also warms the backend up."""
        rows = self.random_rows(self.static_batch or 1)
        values = self._graph.run({b.graph: b.convert(rows[b.name]) for b in self._inputs})
        return [
            GraphTensor(name, tuple(value.shape), value.dtype)
            for name, value in zip(self._graph.outputs, values, strict=True)
        ]

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        specs = self.inputs
        if inputs.keys() != specs.keys():
            raise EngineFailure(
                f"network '{self.name}' takes {sorted(specs)}, was given {sorted(inputs)}"
            )
        counts = {value.shape[:1] for value in inputs.values()}
        if len(counts) != 1 or counts == {torch.Size([0])} or counts == {torch.Size([])}:
            raise EngineFailure(f"network '{self.name}' was given batches of {sorted(counts)} rows")
        for name, value in inputs.items():
            if tuple(value.shape[1:]) != specs[name].shape:
                raise EngineFailure(
                    f"input '{name}' of network '{self.name}' has rows of "
                    f"{list(specs[name].shape)}, was given {list(value.shape[1:])}"
                )


def _static_batch(name: str, tensors: Sequence[GraphTensor]) -> int | None:
    """The only batch size that a graph takes; an input without a batch dimension makes it one."""
    firsts = [tensor.shape[0] if tensor.shape else 1 for tensor in tensors]
    sizes = {size for size in firsts if size is not None}
    if len(sizes) > 1:
        raise InvalidNetwork(f"the inputs of network '{name}' have batches of {sorted(sizes)} rows")
    return next(iter(sizes), None)
