"""A graph under the family's names: the `services.core.network.Network` that engines see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model_store.networks.binding import Bound, Declared, bind_inputs, bind_outputs
from model_store.networks.first_block import Recollection
from model_store.networks.fixed_batch import fixed_rows, usual_rows
from model_store.networks.graph import Graph, GraphTensor
from model_store.networks.row_plan import PROBED_ROWS, RowPlan, candidates, find_plan
from model_store.networks.torch_graph import TorchGraph
from services.core.errors import EngineFailure, InvalidNetwork
from services.core.network import TensorSpec

Evaluate = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]


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
        rows = self.random_rows(PROBED_ROWS)
        self.plan = find_plan(self._run, rows, self.static_batch, self.fixed_rows())

    def take_plan(self, plan: RowPlan | None) -> bool:
        """Take a plan that was found before, if it is one that this graph can have."""
        fixed = usual_rows(self._graph)
        if plan is None or plan not in candidates(self.static_batch, fixed):
            return False
        self.plan = plan
        return True

    @property
    def remembers(self) -> bool:
        """See `services.core.network.RememberingNetwork`."""
        return isinstance(self._graph, TorchGraph) and self._graph.remembers

    def recall(
        self,
        inputs: Mapping[str, Tensor],
        memories: Sequence[Any],
        thresholds: Sequence[float],
    ) -> tuple[dict[str, Tensor], list[Any], list[bool]]:
        """See `services.core.network.RememberingNetwork`."""
        self._check(inputs)
        graph = self._graph
        if not isinstance(graph, TorchGraph) or not graph.remembers:
            raise EngineFailure(f"network '{self.name}' has no blocks that could be left out")
        outputs: list[list[Tensor]] = []
        kept: list[Any] = []
        reused: list[bool] = []
        most, least = self.plan.most, self.plan.least
        for start in range(0, len(memories), most):
            end = min(start + most, len(memories))
            rows = [*range(start, end), *[start] * (least - (end - start))]
            recollection = Recollection(
                [memories[row] for row in rows], [thresholds[row] for row in rows], least
            )
            run = partial(graph.run_recalling, recollection=recollection)
            part = self._run({name: value[rows] for name, value in inputs.items()}, run)
            outputs.append([value[: end - start] for value in part])
            kept += recollection.memories[: end - start]
            reused += recollection.reused[: end - start]
        values = [torch.cat(columns) for columns in zip(*outputs, strict=True)]
        return self._named(values), kept, reused

    def warm_up(self) -> None:
        """Run it once at every batch size that it has to be prepared for."""
        for size in self._graph.sizes:
            self(**self.random_rows(size))

    @property
    def runs_on_torch(self) -> bool:
        """Whether the options of torch apply to it."""
        return self._graph.backend.startswith("torch")

    def fixed_rows(self) -> int | None:
        """See `fixed_batch.fixed_rows`."""
        one = self.random_rows(1)
        return fixed_rows(self._graph, {b.graph: b.convert(one[b.name]) for b in self._inputs})

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
        return self._named(self.plan.run(self._run, inputs))

    def _named(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
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

    def _run(self, inputs: Mapping[str, Tensor], run: Evaluate | None = None) -> list[Tensor]:
        feeds = {bound.graph: bound.convert(inputs[bound.name]) for bound in self._inputs}
        values = (run or self._graph.run)(feeds)
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
