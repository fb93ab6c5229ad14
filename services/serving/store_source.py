"""The model store as engines see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import torch

from model_store.adapters.opening import Opened, with_adapters
from model_store.adapters.resident import ResidentAdapters
from model_store.manifest import Manifest, TorchOptions
from model_store.networks.component_opening import prompt_encoder_of
from model_store.networks.opening import (
    differentiable_networks,
    open_model,
    opened,
    torch_options,
)
from model_store.reading import StoredFiles
from model_store.store import Store
from model_store.versions import digest_of
from services.core.errors import DocumentNotFound, IntegrityFailure
from services.core.model import DocumentKind
from services.core.network import Network, OpenedModel
from services.serving.settings import Tuning

EVERY_OTHER = "*"
LOOK_SECONDS = 0.2
"""A model that was changed or removed is noticed after this long at the latest."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of a model at some moment on ``time.monotonic``."""

    at: float
    manifest: Manifest
    fingerprint: str


class StoreSource:
    """Implements `services.core.source.ModelSource`.

    Args:
        store: where the models are.
        threads: the most threads that a network may use on the CPU.
        torch_options: by model, what takes the place of the manifest's own `torch` options; ``*``
            for every model that is not named.
        tuning: by model, what takes the place of what is measured here or stands in the manifest.
    """

    def __init__(
        self,
        store: Store,
        *,
        threads: int,
        torch_options: Mapping[str, TorchOptions] | None = None,
        tuning: Mapping[str, Tuning] | None = None,
    ) -> None:
        self._store, self._threads = store, threads
        self._torch_options = torch_options or {}
        self._tuning = tuning or {}
        self._looks: dict[str, _Look] = {}
        self._adapters: ResidentAdapters[Opened] = ResidentAdapters(
            store.limits.resident_adapter_bytes
        )

    def names(self) -> Sequence[str]:
        """See `ModelSource.names`."""
        return self._store.ids()

    def fingerprint(self, name: str) -> str:
        """See `ModelSource.fingerprint`: the digest of the manifest, which names every file's."""
        known, now = self._looks.get(name), time.monotonic()
        if known is not None and now - known.at < LOOK_SECONDS:
            return known.fingerprint
        manifest = self._store.get(name)
        if known is not None and known.manifest is manifest:
            fingerprint = known.fingerprint
        else:
            fingerprint = digest_of(manifest)
        self._looks[name] = _Look(at=now, manifest=manifest, fingerprint=fingerprint)
        return fingerprint

    def document(self, name: str, kind: DocumentKind) -> bytes:
        """See `ModelSource.document`."""
        stored = self._store.get(name).files.get(kind)
        if stored is None:
            raise DocumentNotFound(f"model '{name}' comes without a {kind}", param="model")
        return self._store.read(name, stored.file)

    def open(self, name: str, device: torch.device) -> OpenedModel:
        """See `ModelSource.open`."""
        manifest = self._store.get(name)
        tuning = self._tuning.get(manifest.id, Tuning())
        manifest = with_own_defaults(manifest, tuning)
        threads = min(tuning.threads or self._threads, self._threads)
        overrides = self._torch_options.get(manifest.id, self._torch_options.get(EVERY_OTHER))

        def networks() -> Mapping[str, Network]:
            try:
                return open_model(
                    self._store,
                    name,
                    device,
                    threads=threads,
                    prefer=tuning.export,
                    overrides=overrides,
                ).networks
            except IntegrityFailure:
                self._store.get(name)  # says so where it was removed meanwhile, files and all
                raise

        gradients = differentiable_networks(
            self._store, manifest, device, threads=threads, reference=name
        )
        read = StoredFiles(self._store, name)
        encoder = prompt_encoder_of(
            manifest, read, self._store.limits, device, torch_options(manifest, overrides)
        )
        return with_adapters(
            opened(manifest, LazyNetworks(manifest.networks, networks), gradients, encoder),
            self._store,
            manifest,
            device,
            threads=threads,
            resident=self._adapters,
        )


def with_own_defaults(manifest: Manifest, tuning: Tuning) -> Manifest:
    """A manifest with an operator's request defaults over its own, to be checked by its family."""
    if not tuning.defaults:
        return manifest
    own = manifest.options.get("defaults", {})
    defaults = {**(own if isinstance(own, dict) else {}), **tuning.defaults}
    return manifest.model_copy(update={"options": {**manifest.options, "defaults": defaults}})


class LazyNetworks(Mapping[str, Network]):
    """A model's networks, verified and opened when the first of them is asked for."""

    def __init__(
        self, names: Mapping[str, object], open_all: Callable[[], Mapping[str, Network]]
    ) -> None:
        self._names, self._open_all = names, open_all
        self._opened: Mapping[str, Network] | None = None
        self._lock = Lock()

    def __getitem__(self, name: str) -> Network:
        with self._lock:
            if self._opened is None:
                self._opened = self._open_all()
        return self._opened[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
