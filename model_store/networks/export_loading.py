"""From the verified files of a network to a graph that runs: a loader for each kind of export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from model_store.inspect_safetensors import check_safetensors
from model_store.manifest import ExportFile, Manifest, OnnxFile
from model_store.networks.binding import Declared, bind_inputs
from model_store.networks.component_opening import open_component
from model_store.networks.graph import Graph
from model_store.networks.hardware import Export, Hardware
from model_store.networks.image_layout import Frame
from model_store.networks.onnx_description import graph_inputs
from model_store.networks.onnx_graph import OnnxGraph
from model_store.networks.signatures import SIGNATURES, Kind
from model_store.networks.torch_graph import TorchGraph, load_module, module_inputs
from model_store.reading import Read
from model_store.shared_weights import checked_graph
from services.core.errors import InvalidNetwork


def load_graph(
    manifest: Manifest, name: str, read: Read, hardware: Hardware, export: Export
) -> tuple[Graph, Declared]:
    """One network from one of its exports, and what the manifest says of it.

    Raises:
        InvalidNetwork: it has no such export, or it cannot be opened.
        UnsafeModel: a file is of a kind that is never loaded.
        IntegrityFailure: a file is missing, or is not the one that was stored.
    """
    return _LOADERS[export](manifest, name, read, hardware)


def load_torch(
    manifest: Manifest, name: str, read: Read, hardware: Hardware
) -> tuple[TorchGraph, Declared]:
    """As `load_graph`, from the export that runs on torch."""
    load = _safetensors if manifest.networks[name].diffusers is None else _component
    return load(manifest, name, read, hardware)


def declare(manifest: Manifest, name: str, file: ExportFile) -> Declared:
    """What a manifest says of one network beside its bytes."""
    onnx = file if isinstance(file, OnnxFile) else None
    return Declared(
        name=name,
        frame=Frame(manifest.channels, *manifest.resolution),
        signature=SIGNATURES.get((manifest.family, name)),
        inputs=onnx.inputs if onnx else {},
        outputs=onnx.outputs if onnx else {},
        shapes=file.shapes,
        image_layout=onnx.image_layout if onnx else None,
    )


def _onnx(manifest: Manifest, name: str, read: Read, hardware: Hardware) -> tuple[Graph, Declared]:
    files = manifest.networks[name]
    if files.onnx is None:
        raise InvalidNetwork(f"network '{name}' has no ONNX export")
    data = checked_graph(files, read, hardware.limits).data()
    graph = OnnxGraph(data, name=name, device=hardware.device, threads=hardware.threads)
    return graph, declare(manifest, name, files.onnx)


def _safetensors(
    manifest: Manifest, name: str, read: Read, hardware: Hardware
) -> tuple[TorchGraph, Declared]:
    file = manifest.networks[name].safetensors
    if file is None:
        raise InvalidNetwork(f"network '{name}' has no safetensors export")
    data = read(file.file)
    tensors = check_safetensors(file.file, data, hardware.limits)
    module = load_module(
        data, tensors, name=name, architecture=file.architecture, config=file.config
    )
    declared = declare(manifest, name, file)
    shapes = _row_shapes(manifest, name, declared, read, hardware)
    graph = TorchGraph(
        module,
        name=name,
        inputs=module_inputs(module, declared.signature, shapes),
        device=hardware.device,
        threads=hardware.threads,
        options=hardware.options,
    )
    return graph, declared


def _component(
    manifest: Manifest, name: str, read: Read, hardware: Hardware
) -> tuple[TorchGraph, Declared]:
    return open_component(
        manifest,
        name,
        read,
        limits=hardware.limits,
        device=hardware.device,
        threads=hardware.threads,
        options=hardware.options,
    )


_LOADERS: Mapping[Export, Callable[..., tuple[Graph, Declared]]] = MappingProxyType(
    {"onnx": _onnx, "safetensors": _safetensors, "diffusers": _component}
)


def _row_shapes(
    manifest: Manifest, name: str, declared: Declared, read: Read, hardware: Hardware
) -> Mapping[str, Sequence[int]]:
    """Shapes of a module's inputs: the manifest's own, else those of the ONNX export beside it."""
    files = manifest.networks[name]
    if declared.shapes or files.onnx is None:
        ports = declared.signature.inputs if declared.signature else ()
        images = {p.name: declared.frame.shape for p in ports if p.kind is Kind.IMAGE}
        return {**images, **declared.shapes}
    model = checked_graph(files, read, hardware.limits).model
    bound = bind_inputs(declare(manifest, name, files.onnx), graph_inputs(model, name))
    return {b.name: [d for d in b.spec.shape if d is not None] for b in bound}
