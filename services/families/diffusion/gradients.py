"""A network in the form that can be differentiated: few requests need it, so it is opened late.

It is another object than the one that samples, and often another export: the one that samples
fastest may have no gradients (onnxruntime's have none).
"""

from __future__ import annotations

from services.core.network import DifferentiableNetwork, OpenedModel


class Gradients:
    """One network of one model with its gradients, opened by whoever first asks for it."""

    def __init__(self, model: OpenedModel, name: str) -> None:
        """Open nothing yet."""
        self._model, self._name = model, name
        self._opened: DifferentiableNetwork | None = None

    @property
    def exist(self) -> bool:
        """Whether the model has them."""
        return self._name in self._model.gradients

    def network(self) -> DifferentiableNetwork:
        """The network, open.

        Raises:
            UnsupportedTask: the model has none.
            ModelError: its file is missing, changed, or no fit.
        """
        if self._opened is None:
            self._opened = self._model.differentiable(self._name)
        return self._opened
