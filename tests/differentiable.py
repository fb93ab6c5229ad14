"""Models of tests whose networks have gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from services.core.network import OpenedModel
from tests.engines import RowByRow


class WithGradients(RowByRow):
    """A network of tests that can also be differentiated, row by row."""

    def vjp(
        self, inputs: Mapping[str, Tensor], *, wrt: str, output: str, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `DifferentiableNetwork`."""
        self.batches.append(len(cotangent))
        pairs = [
            self._row({n: v[i : i + 1] for n, v in inputs.items()}, wrt, output, row[None])
            for i, row in enumerate(cotangent)
        ]
        return torch.cat([value for value, _ in pairs]), torch.cat([back for _, back in pairs])

    def _row(
        self, inputs: Mapping[str, Tensor], wrt: str, output: str, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        variable = inputs[wrt].detach().clone().requires_grad_()
        value = self._function(**{**inputs, wrt: variable})[output]
        (product,) = torch.autograd.grad(value, variable, cotangent)
        return value.detach(), product


def with_gradients(model: OpenedModel, name: str = "denoiser") -> OpenedModel:
    """A model one of whose networks has a differentiable form, another object than the first."""
    network = model.networks[name]
    if not isinstance(network, RowByRow):
        raise TypeError(f"'{name}' is no network of tests")
    other = WithGradients(network._function, network.inputs, list(network.outputs))
    return replace(model, gradients={**model.gradients, name: lambda: other})
