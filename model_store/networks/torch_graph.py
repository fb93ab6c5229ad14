"""A network as one of our own torch modules with weights from safetensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor, nn

from model_store import architectures
from model_store.inspect_safetensors import Shapes
from model_store.networks.graph import GraphTensor
from model_store.networks.signatures import Kind, Signature
from services.core.errors import EngineFailure, InvalidNetwork, OutOfDeviceMemory

MAX_CONFIG_NUMBER = 1 << 14
_BUILD_ERRORS = (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError)

RowShapes = Mapping[str, Sequence[int]]


class TorchGraph:
    """A module in evaluation mode, without gradients."""

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        inputs: Sequence[GraphTensor],
        device: torch.device,
        threads: int,
    ) -> None:
        """Wrap a module that `load_module` gave; on the CPU torch is set to ``threads`` threads."""
        if device.type == "cpu" and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        self.inputs = inputs
        self.outputs: Sequence[str] = _output_names(name, module)
        self._name = name
        self._device = device
        self._module = module.to(device)

    @property
    def backend(self) -> str:
        """Torch, and the device."""
        return f"torch {self._device}"

    def run(self, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Evaluate; outputs are on the module's device."""
        try:
            with torch.inference_mode():
                values = self._module(**{k: v.to(self._device) for k, v in feeds.items()})
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(f"network '{self._name}' ran out of memory") from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise EngineFailure(f"network '{self._name}' failed: {str(error)[:500]}") from error
        return [values] if isinstance(values, Tensor) else list(values)


def load_module(
    data: bytes,
    shapes: Shapes,
    *,
    name: str,
    architecture: str,
    config: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Build an architecture and give it the weights of a checked safetensors file.

    The module is laid out without memory first, and built only when its weights have the names and
    shapes that the file holds: a configuration cannot ask for more than the file brings.

    Raises:
        InvalidNetwork: the architecture or its configuration is not known, or the weights are not
            its own.
    """
    numbers = [v for v in _leaves(config) if isinstance(v, int) and abs(v) > MAX_CONFIG_NUMBER]
    if numbers:
        raise InvalidNetwork(
            f"the configuration of network '{name}' says {numbers[0]}; at most {MAX_CONFIG_NUMBER}"
        )
    with torch.device("meta"):
        expected = _build(name, architecture, config).state_dict()
    _refuse_foreign(name, architecture, {k: tuple(v.shape) for k, v in expected.items()}, shapes)
    module = _build(name, architecture, config)
    try:
        weights = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise InvalidNetwork(f"the weights of network '{name}' cannot be read: {error}") from error
    module.load_state_dict(
        {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    )
    return module.to(dtype).eval().requires_grad_(requires_grad=False)


def module_inputs(
    module: nn.Module, signature: Signature | None, shapes: RowShapes
) -> list[GraphTensor]:
    """The inputs of a module: names from its forward, shapes from elsewhere.

    Args:
        module: takes the family's own names.
        signature: tells which inputs are integers.
        shapes: of one row, by name; one that is absent stays open.
    """
    kinds = {port.name: port.kind for port in signature.inputs} if signature else {}
    forward: Callable[..., object] = module.forward
    inputs = []
    for name in inspect.signature(forward).parameters:
        whole = kinds.get(name) in (Kind.LABEL, Kind.TOKENS)
        row = shapes.get(name)
        single = kinds.get(name) in (Kind.LABEL, Kind.TIME)
        dims = tuple(row) if row is not None else (() if single else (None,))
        inputs.append(GraphTensor(name, (None, *dims), torch.int64 if whole else torch.float32))
    return inputs


def _build(name: str, architecture: str, config: Mapping[str, object]) -> nn.Module:
    try:
        return architectures.build(architecture, dict(config))
    except _BUILD_ERRORS as error:
        raise InvalidNetwork(
            f"network '{name}' cannot be built as '{architecture[:64]}': {error}"
        ) from error


def _refuse_foreign(name: str, architecture: str, expected: Shapes, found: Shapes) -> None:
    for tensor in sorted(expected.keys() ^ found.keys()):
        verb = "lacks" if tensor in expected else "has a foreign"
        raise InvalidNetwork(
            f"the file of network '{name}' {verb} weight '{tensor[:80]}' of '{architecture}'"
        )
    for tensor, shape in expected.items():
        if found[tensor] != shape:
            raise InvalidNetwork(
                f"weight '{tensor}' of network '{name}' has shape {list(found[tensor])}; "
                f"'{architecture}' with this configuration needs {list(shape)}"
            )


def _output_names(name: str, module: nn.Module) -> tuple[str, ...]:
    names = getattr(type(module), "outputs", None)
    if not isinstance(names, tuple):
        raise InvalidNetwork(f"the architecture of network '{name}' does not name its outputs")
    return names


def _leaves(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
