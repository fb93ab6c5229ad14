"""A component of a pipeline whose rows may each have LoRAs and control residuals of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from model_store.networks.binding import Declared
from model_store.networks.control_residuals import (
    NOTHING,
    Shapes,
    added_residuals,
    recorded_shapes,
)
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.low_rank import Deltas, RowDeltas, low_rank_rows
from model_store.networks.row_plan import RowPlan
from model_store.networks.torch_graph import TorchGraph
from services.core.adaptation import Addition, ScaledLora
from services.core.errors import EngineFailure

DENOISER = "denoiser"
_PLACE, _RESIDUALS = "place", "residuals"


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """Implements `services.core.adaptation.Lora`.

    Attributes:
        name: what requests call it.
        digest: of its file.
        parts: the changed layers of the denoiser (`DENOISER`) and of text encoders (by component).
    """

    name: str
    digest: str
    parts: Mapping[str, Deltas]

    @property
    def changes_prompts(self) -> bool:
        """Whether it changes a text encoder, too."""
        return any(part != DENOISER for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        tensors = [
            tensor
            for layers in self.parts.values()
            for delta in layers.values()
            for tensor in (delta.down, delta.up)
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def deltas_of(loras: Sequence[ScaledLora], part: str) -> RowDeltas:
    """What LoRAs change in one part of a model, in their order."""
    found = []
    for one in loras:
        weights = cast(LoraWeights, one.lora)
        if part in weights.parts and one.scale:
            found.append((weights.parts[part], one.scale))
    return found


class AdaptableNetwork(ExportedNetwork):
    """Implements `services.core.adaptation.AdaptableNetwork`.

    Hooks around the component's layers do the work. Where evaluations are compiled or recorded
    nothing would call them: there the rows that have additions are evaluated apart, as written.
    """

    def __init__(self, graph: TorchGraph, declared: Declared, device: torch.device) -> None:
        """Bind the graph of a component; see `ExportedNetwork`."""
        super().__init__(graph, declared, device)
        self._torch = graph

    def adapted(
        self, inputs: Mapping[str, Tensor], additions: Sequence[Addition]
    ) -> dict[str, Tensor]:
        """See `services.core.adaptation.AdaptableNetwork`."""
        self._check(inputs)
        count = len(next(iter(inputs.values())))
        if len(additions) != count:
            raise EngineFailure(f"{len(additions)} additions were given for {count} rows")
        if not self._torch.sizes:
            return self._evaluated(inputs, additions, self.plan, self._run)
        # One size, so that a row does not show how many others have additions.
        size = self._torch.sizes[0]
        return self._apart(inputs, additions, RowPlan(size, size))

    @property
    def component(self) -> nn.Module:
        """The library's own module inside."""
        component = getattr(self._torch.module, "component", None)
        if not isinstance(component, nn.Module):
            raise EngineFailure(f"network '{self.name}' is no whole component to adapt")
        return component

    @cached_property
    def residual_shapes(self) -> Shapes:
        """Shapes of what a control network may add, found by one evaluation."""
        with recorded_shapes(self.component) as found:
            self._run_as_written(self.random_rows(1))
        return tuple(found)

    def _apart(
        self, inputs: Mapping[str, Tensor], additions: Sequence[Addition], plan: RowPlan
    ) -> dict[str, Tensor]:
        """Rows with additions and rows without, each kind by itself."""
        changed = [i for i, addition in enumerate(additions) if addition]
        plain = [i for i, addition in enumerate(additions) if not addition]
        parts = []
        if plain:
            parts.append(self(**{name: value[plain] for name, value in inputs.items()}))
        if changed:
            own = {name: value[changed] for name, value in inputs.items()}
            given = [additions[i] for i in changed]
            parts.append(self._evaluated(own, given, plan, self._run_as_written))
        order = torch.tensor([*plain, *changed]).argsort()
        return {name: torch.cat([part[name] for part in parts])[order] for name in self.outputs}

    def _evaluated(
        self,
        inputs: Mapping[str, Tensor],
        additions: Sequence[Addition],
        plan: RowPlan,
        evaluate: Callable[[Mapping[str, Tensor]], Sequence[Tensor]],
    ) -> dict[str, Tensor]:
        deltas = [deltas_of(addition.loras, DENOISER) for addition in additions]
        # Rows are padded and parted on the way in, and what is theirs goes with them.
        rows = {**inputs, _PLACE: torch.arange(len(additions))}
        residuals = self._stacked([addition.residuals for addition in additions])
        shapes: Shapes = ()
        if residuals is not None:
            rows[_RESIDUALS] = residuals
            shapes = self.residual_shapes  # found before any row is changed

        def run(part: Mapping[str, Tensor]) -> Sequence[Tensor]:
            with ExitStack() as stack:
                own = [deltas[place] for place in part[_PLACE].tolist()]
                if any(own):
                    stack.enter_context(low_rank_rows(self.component, own))
                if _RESIDUALS in part:
                    stack.enter_context(added_residuals(self.component, part[_RESIDUALS], shapes))
                return evaluate(part)

        values = plan.run(run, rows)
        return {
            bound.name: value.to(self.device)
            for bound, value in zip(self._outputs, values, strict=True)
        }

    def _run_as_written(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """As `_run`, past everything that was compiled or recorded."""
        feeds = {bound.graph: bound.convert(inputs[bound.name]) for bound in self._inputs}
        with torch.inference_mode():
            values = self._torch.record(feeds)
        return [b.convert(values[p]) for b, p in zip(self._outputs, self._places, strict=True)]

    def _stacked(self, rows: Sequence[Tensor | None]) -> Tensor | None:
        """Residuals of all rows; those that have none get nothing added."""
        given = next((row for row in rows if row is not None), None)
        if given is None:
            return None
        nothing = torch.full_like(given, NOTHING)
        return torch.stack([nothing if row is None else row for row in rows]).to(self.device)
