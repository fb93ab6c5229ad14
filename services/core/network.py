"""What an engine sees of an opened model: networks as plain functions on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from services.core.adaptation import Addition, Lora, ScaledLora
from services.core.adapters import AdapterInfo, AdapterKind
from services.core.errors import InvalidNetwork, UnsupportedTask


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


class DifferentiableNetwork(Network, Protocol):
    """A network that can be differentiated with respect to an input."""

    def vjp(
        self, inputs: Mapping[str, Tensor], *, wrt: str, output: str, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluate a batch, and the vector-Jacobian product of every row.

        Rows are independent here too, bitwise, as in `Network`.

        Args:
            inputs: as in a call; every tensor has the same leading dimension.
            wrt: name of the floating-point input to differentiate with respect to.
            output: name of the output to differentiate.
            cotangent: ``v``, of the output's shape.

        Returns:
            The output, and ``v^T (d output / d wrt)`` of the input's shape.
        """
        ...


@runtime_checkable
class RememberingNetwork(Network, Protocol):
    """A network that can leave out most of an evaluation that would say the same as the last."""

    @property
    def remembers(self) -> bool:
        """Whether it can, as it was opened."""
        ...

    def recall(
        self,
        inputs: Mapping[str, Tensor],
        memories: Sequence[Any],
        thresholds: Sequence[float],
    ) -> tuple[dict[str, Tensor], list[Any], list[bool]]:
        """Evaluate a batch; each row decides by its own numbers alone.

        Args:
            inputs: as in a call.
            memories: by row, what its last evaluation left; ``None`` at its first.
            thresholds: by row, the share by which its first block's addition may have changed for
                the rest to be left out.

        Returns:
            The outputs, what is to be kept of each row, and whether most of it was left out.
        """
        ...


class PromptEncoder(Protocol):
    """What a model makes of a prompt: the tensors that its networks are told, for one row."""

    def __call__(self, prompt: str, *, negative: bool = False) -> Mapping[str, Tensor]:
        """Encode one prompt by itself; tensors have no batch dimension and are on the CPU.

        Args:
            prompt: any text, also none.
            negative: whether guidance is to lead away from it.

        Raises:
            InvalidParameter: the model cannot read it.
        """
        ...


class AdaptablePromptEncoder(PromptEncoder, Protocol):
    """What reads prompts where a model has adapters: LoRAs of its text encoders, new tokens.

    Attributes:
        version: changes whenever the same prompt may be read otherwise.
    """

    @property
    def version(self) -> str:
        """See the class."""
        ...

    def adapted(
        self, prompt: str, loras: Sequence[ScaledLora], *, negative: bool = False
    ) -> Mapping[str, Tensor]:
        """As a call, with LoRAs applied to the text encoders."""
        ...


class AdaptableNetwork(Network, Protocol):
    """A network whose rows may each have an addition of their own."""

    def adapted(
        self, inputs: Mapping[str, Tensor], additions: Sequence[Addition]
    ) -> dict[str, Tensor]:
        """Evaluate a batch; a row without an addition is bitwise what a plain call makes of it.

        Args:
            inputs: as in a call; every tensor has the same leading dimension.
            additions: one for each row.

        Raises:
            EngineFailure: an addition does not fit the network.
        """
        ...


class ControlNetwork(Network, Protocol):
    """A ControlNet (Zhang et al., 2023): the denoiser's inputs and ``control`` to ``residuals``.

    ``control`` is an image of the range 0 to 1; ``residuals`` are all that it adds to the
    denoiser's, flattened into one row of numbers.
    """


class Adapters(Protocol):
    """The adapters of one model, as they are registered at the moment of each call."""

    def listed(self) -> Sequence[AdapterInfo]:
        """All of them, sorted by name."""
        ...

    def find(self, name: str, kind: AdapterKind, *, param: str) -> AdapterInfo:
        """One of them; opens nothing.

        Args:
            name: what the request calls it.
            kind: what it must be.
            param: the field of the request that names it.

        Raises:
            InvalidParameter: there is none of that name, it is of another kind, or it was made for
                another model.
        """
        ...

    def resident(self, name: str) -> bool:
        """Whether it is in memory as it is registered now."""
        ...

    def lora(self, name: str) -> Lora:
        """A LoRA, opened unless it is resident.

        Raises:
            InvalidParameter: it is registered no more.
            ModelError: its file is missing, changed, or no fit.
        """
        ...

    def control(self, name: str) -> ControlNetwork:
        """A ControlNet, opened unless it is resident; raises as `lora` does."""
        ...


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A verified model with its networks ready to run on one device.

    ``gradients`` opens, when it is called, the differentiable form of a network that has one; it
    may be another export than the one in ``networks``, which is chosen for speed. A model with
    ``adapters`` has an `AdaptableNetwork` as its denoiser and an `AdaptablePromptEncoder`.
    """

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
    gradients: Mapping[str, Callable[[], DifferentiableNetwork]] = field(default_factory=dict)
    open_prompt_encoder: Callable[[], PromptEncoder] | None = None
    adapters: Adapters | None = None

    def prompt_encoder(self) -> PromptEncoder:
        """Open what reads prompts.

        Raises:
            InvalidNetwork: the model has no such thing.
            ModelError: a file of it is missing, changed, or no fit.
        """
        if self.open_prompt_encoder is None:
            raise InvalidNetwork(
                f"the options of '{self.id}' say that it reads prompts; it is no pipeline that does"
            )
        return self.open_prompt_encoder()

    def differentiable(self, name: str) -> DifferentiableNetwork:
        """Open the differentiable form of a network.

        Raises:
            UnsupportedTask: it has none.
            ModelError: its file is missing, changed, or no fit.
        """
        if name not in self.gradients:
            raise UnsupportedTask(
                f"network '{name}' of '{self.id}' has no differentiable export (safetensors of an "
                "architecture that ships with Atelier); an ONNX graph has no gradients"
            )
        return self.gradients[name]()

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
