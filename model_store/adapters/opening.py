"""The adapters of one model of a store: found, verified, opened, and kept while they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from model_store.adapters.embeddings import Vectors
from model_store.adapters.lora import load_tensors, opened
from model_store.adapters.manifest import AdapterManifest, digest_of
from model_store.adapters.prompts import AdaptedPromptEncoder
from model_store.adapters.resident import ResidentAdapters
from model_store.limits import StoreLimits
from model_store.manifest import Manifest
from model_store.networks.adaptable import DENOISER, LoraWeights
from model_store.networks.components import load_network
from model_store.networks.controlnet import open_control
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.image_layout import Frame
from model_store.networks.prompt_encoding import PromptEncoder
from model_store.store import Store
from services.core.adapters import KIND_WORDS, AdapterInfo, AdapterKind
from services.core.errors import InvalidNetwork, InvalidParameter, ModelNotFound
from services.core.network import OpenedModel
from services.core.network import PromptEncoder as Encodes

Opened = LoraWeights | ExportedNetwork

_USE: dict[AdapterKind, str] = {
    "lora": "name it in `adapters`",
    "controlnet": "name it in `control`, with an image",
}


def with_adapters(
    model: OpenedModel,
    store: Store,
    manifest: Manifest,
    device: torch.device,
    *,
    threads: int,
    resident: ResidentAdapters[Opened],
) -> OpenedModel:
    """A model with the adapters of its store, if it is of a kind that takes any.

    Args:
        model: opened.
        store: where it and the adapters are.
        manifest: the model's.
        device: where it runs.
        threads: how many threads a network may use on the CPU.
        resident: keeps what was opened; shared with other models of the device.
    """
    if manifest.pipeline is None:
        return model
    adapters = ModelAdapters(store, manifest, device, threads=threads, resident=resident)
    encoder = adapters.prompt_encoder_of(model.open_prompt_encoder)
    return replace(model, open_prompt_encoder=encoder, adapters=adapters)


class ModelAdapters:
    """Implements `services.core.network.Adapters`; may be asked from any thread."""

    def __init__(
        self,
        store: Store,
        base: Manifest,
        device: torch.device,
        *,
        threads: int,
        resident: ResidentAdapters[Opened],
    ) -> None:
        """Open nothing yet.

        Args:
            store: where the adapters are.
            base: the model, as it is opened.
            device: where it runs.
            threads: how many threads a network may use on the CPU.
            resident: keeps what was opened; shared with other models of the device.
        """
        self._store, self._base, self._device = store, base, device
        self._threads, self._resident = threads, resident

    def listed(self) -> Sequence[AdapterInfo]:
        """See `services.core.network.Adapters`."""
        shelf = self._store.adapters
        return [
            manifest.info(shelf.size(manifest))
            for manifest in shelf.manifests(self._base.id)
            if self._fits(manifest)
        ]

    def find(self, name: str, kind: AdapterKind, *, param: str) -> AdapterInfo:
        """See `services.core.network.Adapters`."""
        manifest = self._found(name, param)
        if manifest.kind != kind:
            use = _USE.get(manifest.kind, f"write its word '{manifest.token}' in the prompt")
            raise InvalidParameter(
                f"'{name}' is {KIND_WORDS[manifest.kind]}, not {KIND_WORDS[kind]}: {use}",
                param=param,
            )
        return manifest.info(self._store.adapters.size(manifest))

    def resident(self, name: str) -> bool:
        """See `services.core.network.Adapters`."""
        return self._resident.holds(self._key(self._found(name, "adapters")))

    def lora(self, name: str) -> LoraWeights:
        """See `services.core.network.Adapters`."""
        manifest = self._found(name, "adapters")
        found = self._resident.get(self._key(manifest), partial(self._open_lora, manifest))
        if not isinstance(found, LoraWeights):
            raise InvalidParameter(f"'{name}' is no LoRA", param="adapters")
        return found

    def control(self, name: str) -> ExportedNetwork:
        """See `services.core.network.Adapters`."""
        manifest = self._found(name, "control")
        found = self._resident.get(self._key(manifest), partial(self._open_control, manifest))
        if not isinstance(found, ExportedNetwork):
            raise InvalidParameter(f"'{name}' is no ControlNet", param="control")
        return found

    def prompt_encoder_of(
        self, plain: Callable[[], Encodes] | None
    ) -> Callable[[], Encodes] | None:
        """What opens the model's prompt encoder with the words that are registered for it."""
        pipeline = self._base.pipeline
        if plain is None or pipeline is None:
            return plain

        def open_it() -> Encodes:
            encoder = plain()
            if not isinstance(encoder, PromptEncoder):
                return encoder
            return AdaptedPromptEncoder(encoder, pipeline.kind, self._words, self._vectors)

        return open_it

    def _words(self) -> list[AdapterManifest]:
        found = self._store.adapters.manifests(self._base.id)
        return [m for m in found if m.kind == "textual_inversion" and self._fits(m)]

    def _vectors(self, manifest: AdapterManifest) -> Vectors:
        return load_tensors(manifest.id, self._weights(manifest), self._store.limits)

    def _found(self, name: str, param: str) -> AdapterManifest:
        shelf, base = self._store.adapters, self._base.id
        try:
            manifest = shelf.get(name)
        except ModelNotFound:
            raise InvalidParameter(
                f"there is no adapter '{name[:64]}'{shelf.offers(name, base)}", param=param
            ) from None
        if manifest.base != base:
            raise InvalidParameter(
                f"adapter '{name}' was made for '{manifest.base}', not for '{base}'"
                f"{shelf.offers(name, base)}",
                param=param,
            )
        if not self._fits(manifest):
            raise InvalidParameter(
                f"adapter '{name}' was added for another model of the name '{base}': remove it and "
                "add it again",
                param=param,
            )
        return manifest

    def _fits(self, manifest: AdapterManifest) -> bool:
        return digest_of(self._base, manifest.base_components) == manifest.base_digest

    def _key(self, manifest: AdapterManifest) -> str:
        return f"{self._base.id} {manifest.id} {manifest.base_digest} {manifest.digest}"

    def _weights(self, manifest: AdapterManifest) -> bytes:
        if manifest.weights is None:
            raise InvalidNetwork(f"adapter '{manifest.id}' has no weights")
        return self._store.adapters.read(manifest, manifest.weights)

    def _open_lora(self, manifest: AdapterManifest) -> tuple[Opened, int]:
        data, limits = self._weights(manifest), self._store.limits
        weights = opened(manifest.id, manifest.digest, data, limits, self._device)
        return weights, weights.size

    def _open_control(self, manifest: AdapterManifest) -> tuple[Opened, int]:
        files = {f.file: f for f in manifest.stored_files()}
        shelf = self._store.adapters
        return control_network(
            manifest,
            self._base,
            lambda file: shelf.read(manifest, files[file]),
            self._store.limits,
            self._device,
            self._threads,
        )


def control_network(
    manifest: AdapterManifest,
    base: Manifest,
    read: Callable[[str], bytes],
    limits: StoreLimits,
    device: torch.device,
    threads: int,
) -> tuple[ExportedNetwork, int]:
    """A ControlNet beside its model's denoiser, and its bytes in memory.

    Raises:
        ModelError: a file is missing, changed, or no fit.
    """
    denoiser = base.networks[DENOISER].diffusers if DENOISER in base.networks else None
    if manifest.component is None or denoiser is None:
        raise InvalidNetwork(f"adapter '{manifest.id}' is no ControlNet for '{base.id}'")
    module = load_network(manifest.id, manifest.component, read, limits)
    frame = Frame(base.channels, *base.resolution)
    network = open_control(manifest.id, module, denoiser.shapes, frame, device, threads)
    return network, sum(p.numel() * p.element_size() for p in module.parameters())
