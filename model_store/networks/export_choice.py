"""What suits this hardware: the faster export, the threads and the rows a network is run at.

Each is taken as it is remembered, else measured now and remembered by the digests of the files that
it was measured of.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch

from model_store.manifest import Manifest
from model_store.networks.adaptable import AdaptableNetwork
from model_store.networks.component_opening import component_digests
from model_store.networks.differentiable import DifferentiableExport
from model_store.networks.export_loading import load_graph, load_torch
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.hardware import Export, Hardware
from model_store.networks.measurements import Measurement
from model_store.networks.thread_choice import Trial, try_threads
from model_store.networks.torch_graph import TorchGraph
from model_store.reading import Read
from services.core.errors import EngineFailure, InvalidNetwork

EXPORTS: tuple[Export, ...] = ("onnx", "safetensors")
MEASURED_ROWS = 8
MEASURED_RUNS = 5
MEASURED_SECONDS = 0.3


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


def open_faster(manifest: Manifest, name: str, read: Read, hardware: Hardware) -> ExportedNetwork:
    """One network from the faster of two exports: as remembered, else as measured now.

    Raises:
        InvalidNetwork: it cannot be opened, or is not what its family needs.
    """
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


def open_for_gradients(
    manifest: Manifest, name: str, read: Read, hardware: Hardware
) -> DifferentiableExport:
    """One network from the export that runs on torch, so that its rows can be differentiated.

    Raises:
        InvalidNetwork: it has no such export, or it cannot be opened.
    """
    graph, declared = load_torch(manifest, name, read, hardware)
    try:
        network = DifferentiableExport(graph, declared, hardware.device)
    except EngineFailure as error:
        raise _fails(name, error) from error
    _settle(network, _digests(manifest, name, "safetensors"), hardware, "vjp rows")
    return network


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
    graph, declared = load_graph(manifest, name, read, hardware, export)
    try:
        if isinstance(graph, TorchGraph) and export == "diffusers":
            return AdaptableNetwork(graph, declared, hardware.device)
        return ExportedNetwork(graph, declared, hardware.device)
    except EngineFailure as error:
        raise _fails(name, error) from error


def _fails(name: str, error: EngineFailure) -> InvalidNetwork:
    return InvalidNetwork(f"network '{name}' was opened, and fails when run: {error.message}")


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
    """Of the files that the exports consist of; an ONNX graph's weights may lie in the other."""
    files = manifest.networks[name]
    if files.diffusers is not None:
        return component_digests(manifest, name)
    named = [files.onnx, files.safetensors] if "onnx" in exports else [files.safetensors]
    return [file.sha256 for file in named if file and file.sha256]
