"""A network whose rows can be differentiated with respect to an input."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model_store.networks.binding import Declared
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.row_plan import PROBED_ROWS, find_plan
from model_store.networks.torch_graph import TorchGraph
from services.core.errors import EngineFailure, InvalidNetwork

COTANGENT = "cotangent"


class DifferentiableExport(ExportedNetwork):
    """A torch module under the family's names: a `services.core.network.DifferentiableNetwork`."""

    def __init__(self, graph: TorchGraph, declared: Declared, device: torch.device) -> None:
        """Bind the module; it keeps its promise once it has a probed plan.

        Raises:
            InvalidNetwork: it is not what the family needs, or takes no floating-point tensor.
        """
        super().__init__(graph, declared, device)
        self._module = graph
        floats = [n for n, s in self.inputs.items() if s.dtype.is_floating_point and s.shape]
        if not floats:
            raise InvalidNetwork(f"network '{self.name}' has no input to differentiate by")
        self._probed_input = floats[0]

    def probe(self) -> None:
        """Find the cheapest plan under which neither outputs nor products show their company."""
        rows = self.random_rows(PROBED_ROWS)
        output = next(iter(self.outputs))
        value = self._run(rows)[0]
        generator = torch.Generator().manual_seed(1)
        rows[COTANGENT] = torch.randn(value.shape, generator=generator).to(self.device)

        def both(inputs: Mapping[str, Tensor]) -> list[Tensor]:
            plain = {name: value for name, value in inputs.items() if name != COTANGENT}
            return [*self._run(plain), *self._product(inputs, self._probed_input, output)]

        self.plan = find_plan(both, rows, self.static_batch, self.fixed_rows())

    def vjp(
        self, inputs: Mapping[str, Tensor], *, wrt: str, output: str, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `services.core.network.DifferentiableNetwork`.

        Raises:
            EngineFailure: a tensor is missing, not known or of another shape, or the run failed.
        """
        self._check(inputs)
        if output not in self.outputs or wrt not in self.inputs:
            raise EngineFailure(
                f"network '{self.name}' has no output '{output}' to differentiate by '{wrt}'"
            )
        rows = {**inputs, COTANGENT: cotangent}
        value, product = self.plan.run(lambda part: self._product(part, wrt, output), rows)
        return value.to(self.device), product.to(self.device)

    def _product(self, inputs: Mapping[str, Tensor], wrt: str, output: str) -> list[Tensor]:
        variable = inputs[wrt].detach().clone().requires_grad_()
        chosen = {**inputs, wrt: variable}
        with torch.enable_grad():
            feeds = {bound.graph: bound.convert(chosen[bound.name]) for bound in self._inputs}
            values = self._module.record(feeds)
            place = next(i for i, bound in enumerate(self._outputs) if bound.name == output)
            value = self._outputs[place].convert(values[self._places[place]])
            if value.shape != inputs[COTANGENT].shape:
                raise EngineFailure(
                    f"output '{output}' of network '{self.name}' is {list(value.shape)}, its "
                    f"cotangent {list(inputs[COTANGENT].shape)}"
                )
            (product,) = torch.autograd.grad(value, variable, inputs[COTANGENT])
        return [value.detach(), product]
