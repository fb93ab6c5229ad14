"""From a model's name to networks that are ready to run: verify, check, open, bind, choose."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch

from model_store.inspect_onnx import check_onnx
from model_store.inspect_safetensors import check_safetensors
from model_store.limits import StoreLimits
from model_store.manifest import ExportFile, Manifest, NetworkFiles, OnnxFile, TorchOptions
from model_store.networks.adaptable import AdaptableNetwork
from model_store.networks.binding import Declared, bind_inputs
from model_store.networks.component_opening import (
    component_digests,
    open_component,
    prompt_encoder_of,
)
from model_store.networks.differentiable import DifferentiableExport
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.graph import Graph
from model_store.networks.image_layout import Frame
from model_store.networks.measurements import Measurement, Measurements, default_path
from model_store.networks.onnx_description import graph_inputs
from model_store.networks.onnx_graph import OnnxGraph
from model_store.networks.signatures import SIGNATURES, Kind
from model_store.networks.thread_choice import Trial, try_threads
from model_store.networks.torch_graph import TorchGraph, load_module, module_inputs
from model_store.reading import Read, StoredFiles
from model_store.store import Store
from services.core.errors import EngineFailure, InvalidNetwork
from services.core.network import DifferentiableNetwork, Network, OpenedModel, PromptEncoder

Export = Literal["onnx", "safetensors", "diffusers"]

EXPORTS: tuple[Export, ...] = ("onnx", "safetensors")
MEASURED_ROWS = 8
MEASURED_RUNS = 5
MEASURED_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where networks are opened, and what is known of it.

    ``prefer`` names the export to take where there are two, instead of the faster; ``options``
    say how to run what runs on torch.
    """

    device: torch.device
    threads: int
    measurements: Measurements
    limits: StoreLimits
    prefer: Export | None = None
    options: TorchOptions = field(default_factory=TorchOptions)


def open_model(
    store: Store,
    model_id: str,
    device: torch.device,
    *,
    threads: int,
    prefer: Export | None = None,
    measurements: Measurements | None = None,
    overrides: TorchOptions | None = None,
) -> OpenedModel:
    """Open a model of the store; each file is verified before it is looked at.

    Args:
        store: where the model is.
        model_id: its name.
        device: where it is to run.
        threads: the most threads that a network may use on the CPU.
        prefer: the export to take where a network has two, instead of the faster one.
        measurements: what is known of this hardware; the user's cache by default.
        overrides: what of it is set takes the place of the manifest's own `torch` options.

    Raises:
        ModelNotFound: there is no such model.
        IntegrityFailure: a file is missing or is not the one that was stored.
        UnsafeModel: a file is of a kind that is never loaded.
        InvalidNetwork: a network cannot be opened, or is not what its family needs.
    """
    manifest = store.get(model_id)
    if measurements is None:
        measurements = Measurements(default_path(os.environ), device, threads)
    options = torch_options(manifest, overrides)
    hardware = Hardware(device, threads, measurements, store.limits, prefer, options)
    read = StoredFiles(store, model_id)
    networks = open_networks(manifest, read, hardware)
    gradients = differentiable_networks(store, manifest, device, threads=threads)
    encoder = prompt_encoder_of(manifest, read, store.limits, device, options)
    return opened(manifest, networks, gradients, encoder)


def torch_options(manifest: Manifest, overrides: TorchOptions | None) -> TorchOptions:
    """The manifest's options, with what an operator has set in their place."""
    if overrides is None:
        return manifest.torch
    return manifest.torch.model_copy(update=overrides.model_dump(exclude_unset=True))


def opened(
    manifest: Manifest,
    networks: Mapping[str, Network],
    gradients: Mapping[str, Callable[[], DifferentiableNetwork]] | None = None,
    open_prompt_encoder: Callable[[], PromptEncoder] | None = None,
) -> OpenedModel:
    """What a manifest says of a model, with its networks and the way to their gradients."""
    return OpenedModel(
        id=manifest.id,
        family=manifest.family,
        description=manifest.description,
        owned_by=manifest.owned_by,
        created=int(manifest.created.timestamp()) if manifest.created else 0,
        resolution=manifest.resolution,
        channels=manifest.channels,
        pixel_range=manifest.pixel_range,
        networks=networks,
        options=manifest.options,
        card={
            "license": manifest.license,
            "metrics": manifest.metrics,
            **({"notes": manifest.notes} if manifest.notes else {}),
        },
        gradients=gradients or {},
        open_prompt_encoder=open_prompt_encoder,
    )


def differentiable_networks(
    store: Store, manifest: Manifest, device: torch.device, *, threads: int
) -> Mapping[str, Callable[[], DifferentiableNetwork]]:
    """What opens the differentiable form of each network that has one; nothing is opened yet.

    Of a pipeline it is the denoiser alone: nobody differentiates the others.
    """
    return {
        name: partial(open_differentiable, store, manifest.id, name, device, threads=threads)
        for name, files in manifest.networks.items()
        if files.safetensors is not None or (files.diffusers is not None and name == "denoiser")
    }


def open_differentiable(
    store: Store, model_id: str, name: str, device: torch.device, *, threads: int
) -> DifferentiableExport:
    """One network from its safetensors export or component, whatever serves it otherwise.

    It is opened in float32, apart from the one that samples.

    Raises:
        ModelNotFound: the model is gone.
        IntegrityFailure: the file is missing or is not the one that was stored.
        InvalidNetwork: it has no such export, or it cannot be opened.
    """
    manifest = store.get(model_id)
    measurements = Measurements(default_path(os.environ), device, threads)
    hardware = Hardware(device, threads, measurements, store.limits, "safetensors")
    load = _safetensors if manifest.networks[name].diffusers is None else _component
    graph, declared = load(manifest, name, StoredFiles(store, model_id), hardware)
    try:
        network = DifferentiableExport(graph, declared, device)
    except EngineFailure as error:
        raise InvalidNetwork(
            f"network '{name}' was opened, and fails when run: {error.message}"
        ) from error
    _settle(network, _digests(manifest, name, "safetensors"), hardware, "vjp rows")
    return network


def open_networks(
    manifest: Manifest, read: Read, hardware: Hardware
) -> Mapping[str, ExportedNetwork]:
    """Every network of a manifest, from the bytes that ``read`` gives for a file name."""
    return {
        name: _choose(manifest, name, read, hardware)
        if files.onnx and files.safetensors and hardware.prefer is None
        else open_export(manifest, name, read, hardware, _only(files, hardware.prefer))
        for name, files in manifest.networks.items()
    }


def open_export(
    manifest: Manifest, name: str, read: Read, hardware: Hardware, export: Export
) -> ExportedNetwork:
    """One network from one of its exports, with the row plan that this hardware needs.

    Raises:
        InvalidNetwork: it cannot be opened, or is not what its family needs.
    """
    hardware = _with_threads(manifest, name, read, hardware, export)
    network = _bind(manifest, name, read, hardware, export)
    _settle(network, _digests(manifest, name, export), hardware)
    network.warm_up()
    return network


def _with_threads(
    manifest: Manifest, name: str, read: Read, hardware: Hardware, export: Export
) -> Hardware:
    """The hardware with as many threads as one network is worth: as remembered, else as tried now.

    Torch has one number for all its networks; onnxruntime has one for each.
    """
    if export != "onnx" or hardware.device.type != "cpu" or hardware.threads == 1:
        return hardware
    digests = _digests(manifest, name, export)
    known = hardware.measurements.get("threads", digests) if digests else None
    trial = _trial_of(known, hardware.threads)
    if trial is None:

        def open_with(threads: int) -> ExportedNetwork:
            return _bind(manifest, name, read, replace(hardware, threads=threads), export)

        trial = try_threads(open_with, hardware.threads)
        if digests and trial.quiet:
            seconds = {str(threads): value for threads, value in trial.seconds.items()}
            hardware.measurements.put("threads", digests, Measurement(seconds=seconds))
    threads = trial.best
    return replace(
        hardware, threads=threads, measurements=hardware.measurements.with_threads(threads)
    )


def _trial_of(known: Measurement | None, most: int) -> Trial | None:
    """A remembered trial, if it is one of numbers of threads up to ``most``."""
    seconds = known.seconds if known is not None else None
    if not seconds or str(most) not in seconds or not all(key.isdecimal() for key in seconds):
        return None
    counts = {int(key): value for key, value in seconds.items()}
    return Trial(counts, quiet=True) if min(counts) >= 1 and max(counts) == most else None


def _bind(
    manifest: Manifest, name: str, read: Read, hardware: Hardware, export: Export
) -> ExportedNetwork:
    graph, declared = _LOADERS[export](manifest, name, read, hardware)
    try:
        if isinstance(graph, TorchGraph) and export == "diffusers":
            return AdaptableNetwork(graph, declared, hardware.device)
        return ExportedNetwork(graph, declared, hardware.device)
    except EngineFailure as error:
        raise InvalidNetwork(
            f"network '{name}' was opened, and fails when run: {error.message}"
        ) from error


def _settle(
    network: ExportedNetwork, digests: list[str], hardware: Hardware, what: str = "rows"
) -> None:
    """Give a network its row plan: as remembered, else as probed now."""
    if network.runs_on_torch:
        if not hardware.options.deterministic:
            return  # the plan that it has, which takes rows as they come
        changed = hardware.options.model_dump_json(exclude_defaults=True)
        what = what if changed == "{}" else f"{what} {changed}"
    known = hardware.measurements.get(what, digests) if digests else None
    if known is not None and network.take_plan(known.plan()):
        return
    network.probe()
    if digests:
        found = Measurement(least=network.plan.least, most=network.plan.most)
        hardware.measurements.put(what, digests, found)


def _digests(manifest: Manifest, name: str, *exports: Export) -> list[str]:
    files = manifest.networks[name]
    if files.diffusers is not None:
        return component_digests(manifest, name)
    named = {"onnx": files.onnx, "safetensors": files.safetensors}
    chosen = [named[export] for export in exports if export != "diffusers"]
    return [file.sha256 for file in chosen if file and file.sha256]


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
    file = manifest.networks[name].onnx
    if file is None:
        raise InvalidNetwork(f"network '{name}' has no ONNX export")
    data = read(file.file)
    check_onnx(file.file, data, hardware.limits)
    graph = OnnxGraph(data, name=name, device=hardware.device, threads=hardware.threads)
    return graph, declare(manifest, name, file)


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
    sibling = manifest.networks[name].onnx
    if declared.shapes or sibling is None:
        ports = declared.signature.inputs if declared.signature else ()
        images = {p.name: declared.frame.shape for p in ports if p.kind is Kind.IMAGE}
        return {**images, **declared.shapes}
    model = check_onnx(sibling.file, read(sibling.file), hardware.limits)
    bound = bind_inputs(declare(manifest, name, sibling), graph_inputs(model, name))
    return {b.name: [d for d in b.spec.shape if d is not None] for b in bound}


def _choose(manifest: Manifest, name: str, read: Read, hardware: Hardware) -> ExportedNetwork:
    """The faster of two exports: as remembered, else as measured now."""
    digests = _digests(manifest, name, *EXPORTS)
    known = hardware.measurements.get("seconds", digests)
    if known is not None and known.seconds and known.seconds.keys() == set(EXPORTS):
        faster = min(EXPORTS, key=known.seconds.__getitem__)
        return open_export(manifest, name, read, hardware, faster)
    suited = {e: _with_threads(manifest, name, read, hardware, e) for e in EXPORTS}
    opened = {export: _bind(manifest, name, read, suited[export], export) for export in EXPORTS}
    seconds: dict[str, float] = {export: seconds_of(opened[export]) for export in EXPORTS}
    hardware.measurements.put("seconds", digests, Measurement(seconds=seconds))
    faster = min(EXPORTS, key=seconds.__getitem__)
    _settle(opened[faster], _digests(manifest, name, faster), suited[faster])
    opened[faster].warm_up()
    return opened[faster]


def seconds_of(network: ExportedNetwork) -> float:
    """Median time of a batch of `MEASURED_ROWS` rows, after one to warm up.

    A slow network is not run to the end: once `MEASURED_SECONDS` have gone, what there is counts.
    """
    rows = network.random_rows(MEASURED_ROWS)
    network(**rows)
    times: list[float] = []
    while len(times) < MEASURED_RUNS and sum(times) < MEASURED_SECONDS:
        _finish(network.device)
        started = time.perf_counter()
        network(**rows)
        _finish(network.device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _only(files: NetworkFiles, prefer: Export | None) -> Export:
    if files.diffusers:
        return "diffusers"
    if files.onnx and files.safetensors:
        return prefer or "onnx"
    return "onnx" if files.onnx else "safetensors"
