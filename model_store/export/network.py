"""One network as half-precision safetensors and as ONNX, proven equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from model_store.architectures import build
from model_store.export.sharing import share_weights

OPSET = 18
TOLERANCE = 1e-4
PARITY_BATCHES = (1, 2, 7)
SMALLEST_HALF = 256
"""Initialisers of more elements than this are stored in half precision."""


class ParityError(Exception):
    """The two exports of a network do not compute the same."""


@dataclass(frozen=True, slots=True)
class Input:
    """A network input: its shape without the batch dimension, and how to draw a realistic one.

    ``normal`` is N(0, 1), ``unit`` uniform in [0, 1], ``image`` uniform in [-1, 1], ``time``
    uniform in [0, high], ``integer`` int64 uniform in ``0..high - 1``.
    """

    shape: tuple[int, ...]
    kind: Literal["normal", "unit", "image", "time", "integer"] = "normal"
    high: int = 0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """A random batch ``[count, *shape]``."""
        shape = (count, *self.shape)
        if self.kind == "integer":
            return torch.randint(self.high, shape, generator=generator)
        if self.kind == "normal":
            return torch.randn(shape, generator=generator)
        uniform = torch.rand(shape, generator=generator)
        if self.kind == "time":
            return self.high * uniform
        return uniform if self.kind == "unit" else 2 * uniform - 1


@dataclass(frozen=True, slots=True)
class NetworkExport:
    """A trained module and what has to be known to export it."""

    name: str
    architecture: str
    module: nn.Module
    inputs: Mapping[str, Input]
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    """Base name of the safetensors file; networks that name the same one share it."""
    closed_form: bool = False
    """A density rather than a network: its numbers are kept in single precision, and computed with
    in double, so that there is a safetensors file and no ONNX graph."""

    @property
    def onnx_file(self) -> str:
        """Base name of the ONNX file."""
        return f"{self.name}.onnx"

    @property
    def safetensors_file(self) -> str:
        """Base name of the safetensors file."""
        return f"{self.weights or self.name}.safetensors"

    def draw(self, count: int, seed: int) -> dict[str, Tensor]:
        """Random inputs, a batch of ``count``."""
        generator = torch.Generator().manual_seed(seed)
        return {name: spec.draw(count, generator) for name, spec in self.inputs.items()}


def half_precision(module: nn.Module) -> dict[str, Tensor]:
    """The module's weights rounded to float16, contiguous and apart from one another."""
    return {
        name: value.detach().half().clone().contiguous() if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }


def single_precision(module: nn.Module) -> dict[str, Tensor]:
    """The module's weights as float32, contiguous and apart from one another."""
    return {k: v.detach().float().clone().contiguous() for k, v in module.state_dict().items()}


def load_module(network: NetworkExport, folder: Path) -> nn.Module:
    """A fresh float32 module with the weights of the safetensors file."""
    module = build(network.architecture, network.config)
    weights = load_file(folder / network.safetensors_file)
    module.load_state_dict({name: value.float() for name, value in weights.items()})
    return module.eval()


def export(network: NetworkExport, folder: Path) -> float:
    """Write both files of a network and prove them equal; of a closed form, the one it has.

    The graph takes its weights from the safetensors file (`model_store.export.sharing`), so the two
    belong together; what is proven is the graph as it is served.

    Returns:
        The largest absolute difference between the two over random inputs.

    Raises:
        ParityError: the difference is above `TOLERANCE`, or the folder has other weights already.
    """
    if network.closed_form:
        save_file(single_precision(network.module), folder / network.safetensors_file)
        return 0.0
    weights = save(half_precision(network.module))
    write_weights(folder / network.safetensors_file, weights)
    module = load_module(network, folder)
    model = to_onnx(network, module)
    share_weights(model, weights, network.safetensors_file)
    (folder / network.onnx_file).write_bytes(model.SerializeToString())
    return check_parity(network, folder)


def write_weights(path: Path, weights: bytes) -> None:
    """Write a safetensors file, unless a network that shares it has written it before.

    Raises:
        ParityError: there is one with other content, to which a graph may refer.
    """
    if path.exists() and path.read_bytes() != weights:
        raise ParityError(
            f"'{path.name}' is there with other weights, to which a graph may refer; networks that "
            "share a file must have the same, and a new export needs an empty folder"
        )
    path.write_bytes(weights)


def to_onnx(network: NetworkExport, module: nn.Module) -> onnx.ModelProto:
    """The module as an ONNX graph with a dynamic batch and half-precision weights."""
    example = network.draw(3, seed=0)
    batch = torch.export.Dim("n", min=1)
    program = torch.onnx.export(
        module,
        kwargs=example,
        input_names=list(network.inputs),
        output_names=list(type(module).outputs),  # type: ignore[attr-defined]
        dynamic_shapes={name: {0: batch} for name in network.inputs},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program; this is a bug")
    model = program.model_proto
    strip_metadata(model)
    store_in_half(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove what an exporter notes down about the machine and the source it ran from.

    The shapes of what is computed on the way stay: onnxruntime chooses its fusions by them, and
    without them a graph's outputs differ in the last bits.
    """
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")


def store_in_half(model: onnx.ModelProto) -> None:
    """Store large float32 initialisers as float16 with a cast back to float32 behind each.

    The file halves; onnxruntime folds the casts when it loads the graph, so that it computes in
    float32. Nothing is lost: what is no float16 number stays as it is, such as a convolution's
    weights that the exporter has folded a normalization into.
    """
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size <= SMALLEST_HALF:
            continue
        halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.half"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A single-threaded CPU session."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_parity(network: NetworkExport, folder: Path) -> float:
    """The largest absolute difference between the exports at batches of 1, 2 and 7.

    Raises:
        ParityError: it is above `TOLERANCE` or not a number, or an output's shape differs.
    """
    module = load_module(network, folder)
    session = open_session(folder / network.onnx_file)
    worst = 0.0
    for count in PARITY_BATCHES:
        inputs = network.draw(count, seed=count)
        with torch.no_grad():
            expected = module(**inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        given = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for output, a, b in zip(session.get_outputs(), expected, given, strict=True):
            if tuple(a.shape) != b.shape:
                raise ParityError(
                    f"network '{network.name}': output '{output.name}' has shape {b.shape} in ONNX "
                    f"and {tuple(a.shape)} in torch"
                )
            difference = float(np.abs(a.numpy() - b).max())
            if not difference <= TOLERANCE:  # also when it is not a number
                raise ParityError(
                    f"network '{network.name}': output '{output.name}' differs by {difference:.3g} "
                    f"between ONNX and torch at batch {count}; at most {TOLERANCE:g} is allowed"
                )
            worst = max(worst, difference)
    return worst
