"""A network on onnxruntime, opened from verified bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as state
from torch import Tensor

from model_store.networks.graph import GraphTensor
from services.core.errors import EngineFailure, InvalidNetwork, OutOfDeviceMemory

RUNTIME_ERRORS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NotImplemented,
    state.NotFound,
    state.RuntimeException,
    state.EPFail,
    RuntimeError,
    ValueError,
)
DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}
_MEMORY_WORDS = ("allocate memory", "bad_alloc", "out of memory", "BFCArena")

_logger = logging.getLogger(__name__)

onnxruntime.disable_telemetry_events()


class OnnxGraph:
    """An onnxruntime session; threads do not spin while they wait."""

    def __init__(self, data: bytes, *, name: str, device: torch.device, threads: int) -> None:
        """Open a graph that `model_store.inspect_onnx.check_onnx` has passed.

        On a CUDA device without onnxruntime-gpu the graph runs on the CPU, and says so.

        Raises:
            InvalidNetwork: the runtime refuses it, or a tensor is of a type that is not taken.
        """
        self._name = name
        providers = ["CPUExecutionProvider"]
        if device.type == "cuda":
            providers.insert(0, "CUDAExecutionProvider")
        present = [p for p in providers if p in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(
                data, session_options(threads), providers=present
            )
        except RUNTIME_ERRORS as error:
            raise InvalidNetwork(f"onnxruntime cannot open network '{name}': {error}") from error
        self._provider = self._session.get_providers()[0]
        if self._provider != providers[0]:
            _logger.warning("network '%s' runs on %s, not on CUDA", name, self._provider)
        self.inputs = [_described(name, value) for value in self._session.get_inputs()]
        given = self._session.get_outputs()
        self.outputs = [value.name for value in given if value.type in DTYPES]

    @property
    def backend(self) -> str:
        """The execution provider that was really taken."""
        return f"onnxruntime {self._provider}"

    @property
    def sizes(self) -> Sequence[int]:
        """None: a session takes any batch as it comes."""
        return ()

    @property
    def on_cuda(self) -> bool:
        """Whether it runs on a CUDA device."""
        return bool(self._provider == "CUDAExecutionProvider")

    def run(self, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Evaluate; outputs are on the CPU."""
        arrays = {key: value.detach().cpu().contiguous().numpy() for key, value in feeds.items()}
        try:
            values = self._session.run(self.outputs, arrays)
        except RUNTIME_ERRORS as error:
            text = str(error)
            if any(word in text for word in _MEMORY_WORDS):
                raise OutOfDeviceMemory(f"network '{self._name}' ran out of memory") from error
            raise EngineFailure(f"network '{self._name}' failed: {text[:500]}") from error
        return [torch.from_numpy(value) for value in values]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Sequential execution on ``threads`` threads that sleep when idle."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _described(network: str, value: onnxruntime.NodeArg) -> GraphTensor:
    if value.type not in DTYPES:
        raise InvalidNetwork(
            f"input '{value.name}' of network '{network}' is a {value.type}; taken are "
            f"{', '.join(DTYPES)}"
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in value.shape)
    return GraphTensor(value.name, shape, DTYPES[value.type])
