"""An ONNX file, checked before a runtime sees it: operators, counts, and where its weights lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from google.protobuf.message import DecodeError

from model_store.file_content import refuse_unsafe
from model_store.limits import StoreLimits
from model_store.manifest import is_file_name
from services.core.errors import InvalidNetwork, UnsafeModel

OPERATOR_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
REACHING_OPERATORS = frozenset({"EPContext", "PythonOp", "PythonOpGrad"})
MAX_GRAPH_BYTES = (2 << 30) - (1 << 20)


def check_onnx(name: str, data: bytes, limits: StoreLimits) -> onnx.ModelProto:
    """The parsed graph of a self-contained ONNX file.

    Raises:
        UnsafeModel: the file is a pickle or an archive, its weights lie in another file, or an
            operator could reach outside the graph.
        InvalidNetwork: it is no ONNX file, or over a limit.
    """
    model = parse_onnx(name, data)
    check_graph(name, model, limits)
    return model


def check_graph(name: str, model: onnx.ModelProto, limits: StoreLimits) -> None:
    """Refuse a parsed graph for what `check_onnx` would refuse its file for."""
    _check_nodes(name, model, limits)
    for count, tensor in enumerate(tensors_of(model), start=1):
        if count > limits.tensors:
            raise InvalidNetwork(f"'{name}' has more than {limits.tensors} tensors")
        if is_external(tensor):
            raise UnsafeModel(
                f"'{name}' keeps tensor '{tensor.name[:64]}' in another file; only "
                "`atelier models add` on the folder folds such files in"
            )


def parse_onnx(name: str, data: bytes) -> onnx.ModelProto:
    """The graph as it stands, its operators and weights unchecked and no other file read."""
    refuse_unsafe(name, data)
    if len(data) > MAX_GRAPH_BYTES:
        raise InvalidNetwork(f"'{name}' is over 2 GiB, which ONNX cannot hold: use safetensors")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise InvalidNetwork(f"'{name}' is no ONNX file: {error}") from error
    if not model.graph.node or not model.graph.output:
        raise InvalidNetwork(f"'{name}' is no ONNX file with a graph in it")
    return model


def fold_external_data(name: str, data: bytes, read: Callable[[str], bytes]) -> bytes:
    """The same graph with its weights inside, as exporters often put them into a second file.

    Args:
        name: what to call the file in an error.
        data: the ONNX file.
        read: gives the content of a file beside it, by plain base name.

    Returns:
        ``data`` itself when nothing lies outside.

    Raises:
        UnsafeModel: a location is no plain base name of a regular file beside it.
        InvalidNetwork: a range lies outside that file, or the whole is over 2 GiB.
    """
    model = parse_onnx(name, data)
    outside = [tensor for tensor in tensors_of(model) if is_external(tensor)]
    if not outside:
        return data
    files: dict[str, bytes] = {}
    total = len(data)
    for tensor in outside:
        chunk = _external_bytes(name, tensor, files, read)
        total += len(chunk)
        if total > MAX_GRAPH_BYTES:
            raise InvalidNetwork(f"'{name}' and its data are over 2 GiB: use safetensors")
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.raw_data = chunk
    folded: bytes = model.SerializeToString(deterministic=True)
    return folded


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's values lie in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL or bool(tensor.external_data)


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in the model: initialisers and attributes, subgraphs and functions included."""
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in _attributes(model):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse_tensors = [*attribute.sparse_tensors]
        if attribute.HasField("sparse_tensor"):
            sparse_tensors.append(attribute.sparse_tensor)
        for sparse in sparse_tensors:
            yield from (sparse.values, sparse.indices)


def _external_bytes(
    name: str,
    tensor: onnx.TensorProto,
    files: dict[str, bytes],
    read: Callable[[str], bytes],
) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not is_file_name(location):
        raise UnsafeModel(
            f"'{name}' wants tensor data from '{location[:128]}'; only a plain file name beside "
            "the graph is followed"
        )
    if location not in files:
        files[location] = read(location)
    content = files[location]
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or len(content) - offset)
    except ValueError as error:
        raise InvalidNetwork(f"'{name}' has an unreadable data range") from error
    if offset < 0 or length < 0 or offset + length > len(content):
        raise InvalidNetwork(f"'{name}' wants bytes outside '{location}': the file is not whole")
    return content[offset : offset + length]


def _check_nodes(name: str, model: onnx.ModelProto, limits: StoreLimits) -> None:
    if model.training_info:
        raise InvalidNetwork(f"'{name}' holds training steps; export for inference")
    local = {(function.domain, function.name) for function in model.functions}
    for count, node in enumerate(_nodes(model), start=1):
        if count > limits.nodes:
            raise InvalidNetwork(f"'{name}' has more than {limits.nodes} nodes")
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in OPERATOR_DOMAINS or node.op_type in REACHING_OPERATORS:
            raise UnsafeModel(
                f"'{name}' uses operator '{node.domain[:64]}::{node.op_type[:64]}'; only the "
                "standard operators and com.microsoft's run here"
            )


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield model.graph
    for attribute in _attributes(model):
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for function in model.functions:
        yield from function.attribute_proto
    for node in _nodes(model):
        yield from node.attribute


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*model.graph.node]
    for function in model.functions:
        pending.extend(function.node)
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            pending.extend(attribute.g.node)
            for graph in attribute.graphs:
                pending.extend(graph.node)
