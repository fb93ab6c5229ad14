"""A direction of a flow that finds one value after another: samples of a MAF, densities of an IAF.

Its network turns a state into the next one. A state is ``[3, d]``: what is given, what has been
found, and the log-determinant by value. The last state is given the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.core.errors import InvalidNetwork
from services.core.network import Network, OpenedModel
from services.core.trajectory import Trajectory

INPUTS, OUTPUTS = ["state", "index"], ["next_state"]
GIVEN, LOG_DET = 0, 2
STATE_ROWS = 3


@dataclass(slots=True, eq=False, kw_only=True)
class Unfolding(Trajectory):
    """Images or latents on their way through the stepwise direction; ``x`` is ``[r, 3, d]``."""


@dataclass(slots=True, eq=False, kw_only=True)
class Judgement(Trajectory):
    """An image whose likelihood is being computed; ``x`` is where in its bin each pixel lies.

    ``state`` is that of the stepwise direction between two places in the bins, where there is one.
    """

    log_priors: list[float] = field(default_factory=list)
    log_dets: list[float] = field(default_factory=list)
    state: Tensor | None = None


class Stepwise:
    """One direction, as a network of which ``evaluations`` make one pass."""

    def __init__(
        self, model: OpenedModel, name: str, evaluations: int, device: torch.device
    ) -> None:
        """Open the network ``name``.

        Raises:
            InvalidNetwork: it is absent, or its state has another shape.
        """
        self.network: Network = model.network(name, inputs=INPUTS, outputs=OUTPUTS)
        self.evaluations = evaluations
        self._device = device
        shape = self.network.inputs["state"].shape
        if len(shape) != 2 or shape[0] != STATE_ROWS or shape[1] is None:
            raise InvalidNetwork(
                f"network '{name}' of '{model.id}' has states of {list(shape)}; a flow's are "
                "[3, values]"
            )
        self.dims = shape[1]

    def begin(self, given: Tensor) -> Tensor:
        """The first states ``[r, 3, d]`` of images or latents ``[r, ...]``."""
        values = given.flatten(1).float()
        nothing = torch.zeros_like(values)
        return torch.stack([values, nothing, nothing], dim=1)

    def advance(self, states: Sequence[Tensor], indices: Sequence[int]) -> list[Tensor]:
        """One evaluation for everybody's states.

        Args:
            states: ``[r_i, 3, d]``, each with as many rows as it likes.
            indices: how many evaluations of its pass each has had.
        """
        rows = [len(state) for state in states]
        index = torch.tensor(indices).repeat_interleave(torch.tensor(rows))
        found = self.network(
            state=torch.cat(list(states)).to(self._device), index=index.to(self._device)
        )
        return list(found["next_state"].cpu().split(rows))


def answer(states: Tensor) -> Tensor:
    """What the stepwise direction came to: ``[r, d]``."""
    return states[:, GIVEN]


def log_determinant(states: Tensor) -> Tensor:
    """Of the whole direction, in double precision: ``[r]``.

    Summed one image at a time by torch, so an image's order of additions is always the same.
    """
    return torch.stack([state[LOG_DET].double().sum() for state in states])
