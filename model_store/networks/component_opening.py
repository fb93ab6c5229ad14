"""A model that is a diffusers pipeline: its components as graphs, and what reads its prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from model_store.limits import StoreLimits
from model_store.manifest import Component, ComponentNetwork, Manifest, TorchOptions
from model_store.networks.binding import Declared
from model_store.networks.component_networks import wrap
from model_store.networks.components import load_network
from model_store.networks.graph import GraphTensor
from model_store.networks.image_layout import Frame
from model_store.networks.prompt_encoding import READERS, load_prompt_encoder
from model_store.networks.torch_graph import TorchGraph
from model_store.networks.upload import placed
from model_store.reading import Read
from services.core.errors import InvalidNetwork
from services.core.network import PromptEncoder


def open_component(
    manifest: Manifest,
    name: str,
    read: Read,
    *,
    limits: StoreLimits,
    device: torch.device,
    threads: int,
    options: TorchOptions | None = None,
) -> tuple[TorchGraph, Declared]:
    """A network that is a pipeline's component, with what is to be bound to it.

    Raises:
        InvalidNetwork: it is none, or takes other inputs than the manifest gives the shapes of.
        ModelError: the component cannot be loaded.
    """
    files, component = component_of(manifest, name)
    module = load_network(name, component, read, limits)
    network = wrap(component.kind, name, module, manifest.resolution)
    whole: frozenset[str] = getattr(network, "whole", frozenset())
    taken = list(inspect.signature(network.forward).parameters)
    if sorted(taken) != sorted(files.shapes):
        raise InvalidNetwork(
            f"network '{name}' takes {', '.join(taken)}; the manifest gives the shapes of "
            f"{', '.join(files.shapes)}"
        )
    options = fitting(component.kind, module, options or TorchOptions())
    shapes = {**files.shapes}
    if name == "decoder" and "z" in shapes:
        shapes["z"] = tile_of(shapes["z"], options.decode_tile)
    inputs = [
        GraphTensor(key, (None, *row), torch.int64 if key in whole else torch.float32)
        for key, row in shapes.items()
    ]
    graph = TorchGraph(
        network, name=name, inputs=inputs, device=device, threads=threads, options=options
    )
    return graph, Declared(name=name, frame=Frame(manifest.channels, *manifest.resolution))


def fitting(kind: str, module: Any, options: TorchOptions) -> TorchOptions:
    """The options, in float32 for a component that overflows in float16.

    Those are autoencoders whose configuration says `force_upcast`, as diffusers' SDXL pipeline
    treats them, and T5, whose feed-forward layers transformers keeps in float32.
    """
    upcast = kind == "T5EncoderModel" or bool(getattr(module.config, "force_upcast", False))
    if options.dtype == "float16" and upcast:
        return options.model_copy(update={"dtype": "float32"})
    return options


def tile_of(shape: Sequence[int], side: int) -> list[int]:
    """What a decoder is given at once: a whole latent ``[channels, h, w]``, or a tile of it.

    A family sees by the decoder's input that it has to decode in tiles.
    """
    return [shape[0], *(min(size, side) for size in shape[1:])]


def component_of(manifest: Manifest, name: str) -> tuple[ComponentNetwork, Component]:
    """What the manifest says of a network that is a component, and of the component.

    Raises:
        InvalidNetwork: it is none.
    """
    files = manifest.networks[name].diffusers
    if files is None or manifest.pipeline is None:
        raise InvalidNetwork(f"network '{name}' is no component of a pipeline")
    return files, manifest.pipeline.components[files.component]


def component_digests(manifest: Manifest, name: str) -> list[str]:
    """Digests of the files of a network that is a component, and which part of it is meant."""
    _, component = component_of(manifest, name)
    return [name, *sorted(file.sha256 for file in component.files.values() if file.sha256)]


def prompt_encoder_of(
    manifest: Manifest,
    read: Read,
    limits: StoreLimits,
    device: torch.device,
    options: TorchOptions | None = None,
) -> Callable[[], PromptEncoder] | None:
    """What opens a model's prompt encoder, where it is a pipeline that reads prompts.

    Of the options it follows the precision.
    """
    pipeline = manifest.pipeline
    if pipeline is None or pipeline.kind not in READERS:
        return None
    chosen = options or TorchOptions()

    def place(kind: str, module: nn.Module) -> nn.Module:
        dtype: torch.dtype = getattr(torch, fitting(kind, module, chosen).dtype)
        return placed(module, device, dtype)

    return lambda: load_prompt_encoder(pipeline, read, limits, device, place)
