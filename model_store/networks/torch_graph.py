"""A network as one of our own torch modules with weights from safetensors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_store import architectures
from model_store.inspect_safetensors import Shapes
from model_store.manifest import TorchOptions
from model_store.networks.batch_buckets import DEFAULT_SIZES, BatchBuckets
from model_store.networks.first_block import FirstBlockCache, Recollection, offers_first_block
from model_store.networks.graph import GraphTensor
from model_store.networks.row_plan import FIXED_ROWS
from model_store.networks.signatures import Kind, Signature
from model_store.networks.upload import placed
from services.core.errors import EngineFailure, InvalidNetwork, OutOfDeviceMemory

SPARE_NUMBERS = 1 << 20
_BUILD_ERRORS = (TypeError, KeyError, AttributeError, IndexError, ArithmeticError)
_FACTORIES = frozenset(
    {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange}
)

RowShapes = Mapping[str, Sequence[int]]


class TorchGraph:
    """A module in evaluation mode, its weights without gradients."""

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        inputs: Sequence[GraphTensor],
        device: torch.device,
        threads: int,
        options: TorchOptions | None = None,
    ) -> None:
        """Wrap a module that `load_module` gave; on the CPU torch is set to ``threads`` threads.

        Args:
            module: in float32.
            name: what to call it in an error.
            inputs: what it takes, in float32; its states are given to it in the options' dtype.
            device: where it is to run.
            threads: on the CPU.
            options: precision, layout and compilation; none of them by default.
        """
        if device.type == "cpu" and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        self.options = options or TorchOptions()
        dtype: torch.dtype = getattr(torch, self.options.dtype)
        self.inputs = [_in_precision(tensor, dtype) for tensor in inputs]
        self.outputs: Sequence[str] = _output_names(name, module)
        self._name = name
        self._device = device
        self._module = placed(module, device, dtype, channels_last=self.options.channels_last)
        self._compiled: Callable[..., Any] = (
            torch.compile(self._module, dynamic=False) if self.options.compile else self._module
        )
        self._first_block: FirstBlockCache | None = None
        sizes = bucket_sizes(self.options)
        self._buckets = (
            BatchBuckets(self._evaluated, device, sizes, capture=self.options.cuda_graphs)
            if sizes
            else None
        )

    @property
    def module(self) -> nn.Module:
        """What is run."""
        return self._module

    @property
    def backend(self) -> str:
        """Torch, and the device."""
        return f"torch {self._device}"

    def run(self, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Evaluate; outputs are on the module's device.

        Raises:
            EngineFailure: the computation failed.
            OutOfDeviceMemory: it did not fit.
        """
        evaluate = self._evaluated if self._buckets is None else self._buckets.run
        with torch.inference_mode(), self._typed_errors():
            return evaluate(feeds)

    @property
    def remembers(self) -> bool:
        """Whether its blocks can be left out; those of compiled code cannot."""
        fixed = self._buckets is not None or self.options.compile
        return not fixed and offers_first_block(self._blocks_of)

    def run_recalling(
        self, feeds: Mapping[str, Tensor], recollection: Recollection
    ) -> Sequence[Tensor]:
        """Evaluate as `run` does, with blocks left out as the recollection has it."""
        if self._first_block is None:
            self._first_block = FirstBlockCache(self._blocks_of)
        with self._first_block.recalling(recollection):
            return self.run(feeds)

    @property
    def _blocks_of(self) -> nn.Module:
        component: nn.Module = getattr(self._module, "component", self._module)
        return component

    @property
    def sizes(self) -> Sequence[int]:
        """Batch sizes that it has to be warmed up for."""
        return () if self._buckets is None else self._buckets.sizes

    def record(self, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Evaluate as `run` does; what feeds require gradients, outputs can be differentiated by.

        Raises:
            EngineFailure: the computation failed.
            OutOfDeviceMemory: it did not fit.
        """
        with self._typed_errors():
            return _listed(self._module(**{k: v.to(self._device) for k, v in feeds.items()}))

    def _evaluated(self, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        there = {name: self._laid_out(value.to(self._device)) for name, value in feeds.items()}
        return _listed(self._compiled(**there))

    def _laid_out(self, value: Tensor) -> Tensor:
        if self.options.channels_last and value.dim() == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(f"network '{self._name}' ran out of memory") from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise EngineFailure(f"network '{self._name}' failed: {str(error)[:500]}") from error


def bucket_sizes(options: TorchOptions) -> tuple[int, ...]:
    """The batch sizes that a network is run at; none where any will do."""
    if options.batch_buckets:
        return tuple(options.batch_buckets)
    if not (options.compile or options.cuda_graphs):
        return ()
    return (FIXED_ROWS,) if options.deterministic else DEFAULT_SIZES


def _in_precision(tensor: GraphTensor, dtype: torch.dtype) -> GraphTensor:
    """States and conditions in the network's precision; times and other numbers as they are."""
    if not tensor.is_float or len(tensor.shape) < 2:
        return tensor
    return replace(tensor, dtype=dtype)


def _listed(values: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
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

    The configuration comes with the file, so building stops when it makes more numbers than the
    file could fill.

    Raises:
        InvalidNetwork: the architecture or its configuration is not known, or the weights are not
            its own.
    """
    stored = sum(math.prod(shape) for shape in shapes.values())
    try:
        with NumberBudget(name, 2 * stored + SPARE_NUMBERS):
            module = architectures.build(architecture, dict(config))
    except _BUILD_ERRORS as error:
        raise InvalidNetwork(
            f"network '{name}' cannot be built as '{architecture[:64]}': {error}"
        ) from error
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    _refuse_foreign(name, architecture, expected, shapes)
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


class NumberBudget(TorchFunctionMode):
    """Counts the numbers that factory functions are asked for, and stops at a ceiling."""

    def __init__(self, name: str, numbers: int) -> None:
        super().__init__()
        self._name = name
        self._left = numbers

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _FACTORIES:
            plain = {k: v for k, v in (kwargs or {}).items() if k not in ("generator", "out")}
            self._left -= func(*args, **{**plain, "device": "meta"}).numel()
            if self._left < 0:
                raise InvalidNetwork(
                    f"the configuration of network '{self._name}' asks for a larger network than "
                    "its file holds weights for"
                )
        return func(*args, **(kwargs or {}))


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
