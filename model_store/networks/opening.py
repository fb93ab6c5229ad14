"""From a model's name to networks that are ready to run: verify, check, open, bind, choose."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

import torch

from model_store.manifest import Manifest, NetworkFiles, TorchOptions
from model_store.networks.component_opening import prompt_encoder_of
from model_store.networks.differentiable import DifferentiableExport
from model_store.networks.export_choice import open_export, open_faster, open_for_gradients
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.hardware import Export, Hardware
from model_store.networks.measurements import Measurements, default_path
from model_store.reading import Read, StoredFiles
from model_store.store import Store
from services.core.network import DifferentiableNetwork, Network, OpenedModel, PromptEncoder


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
    store: Store,
    manifest: Manifest,
    device: torch.device,
    *,
    threads: int,
    reference: str | None = None,
) -> Mapping[str, Callable[[], DifferentiableNetwork]]:
    """What opens the differentiable form of each network that has one; nothing is opened yet.

    Of a pipeline it is the denoiser alone: nobody differentiates the others. ``reference`` names
    the version, where that is not to be whatever the store serves by then.
    """
    model_id = reference or manifest.id
    return {
        name: partial(open_differentiable, store, model_id, name, device, threads=threads)
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
    return open_for_gradients(manifest, name, StoredFiles(store, model_id), hardware)


def open_networks(
    manifest: Manifest, read: Read, hardware: Hardware
) -> Mapping[str, ExportedNetwork]:
    """Every network of a manifest, from the bytes that ``read`` gives for a file name."""
    return {
        name: open_faster(manifest, name, read, hardware)
        if files.onnx and files.safetensors and hardware.prefer is None
        else open_export(manifest, name, read, hardware, _only(files, hardware.prefer))
        for name, files in manifest.networks.items()
    }


def _only(files: NetworkFiles, prefer: Export | None) -> Export:
    if files.diffusers:
        return "diffusers"
    if files.onnx and files.safetensors:
        return prefer or "onnx"
    return "onnx" if files.onnx else "safetensors"
