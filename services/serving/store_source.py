"""The model store as engines see it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock

import torch

from model_store.manifest import Manifest
from model_store.networks.opening import open_model
from model_store.store import Store
from services.core.errors import InvalidManifest
from services.core.network import Network, OpenedModel


class StoreSource:
    """Implements `services.core.source.ModelSource`.

    Args:
        store: where the models are.
        threads: how many threads a network may use on the CPU.
    """

    def __init__(self, store: Store, *, threads: int) -> None:
        self._store, self._threads = store, threads
        self._fingerprints: dict[str, tuple[Manifest, str]] = {}

    def names(self) -> Sequence[str]:
        """See `ModelSource.names`."""
        return self._store.ids()

    def fingerprint(self, name: str) -> str:
        """See `ModelSource.fingerprint`: the digest of the manifest, which names every file's."""
        manifest = self._store.get(name)
        known = self._fingerprints.get(name)
        if known is not None and known[0] is manifest:
            return known[1]
        found = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()
        self._fingerprints[name] = (manifest, found)
        return found

    def open(self, name: str, device: torch.device) -> OpenedModel:
        """See `ModelSource.open`."""
        manifest = self._store.get(name)

        def networks() -> Mapping[str, Network]:
            opened = open_model(self._store, name, device, threads=self._threads)
            if opened.id != manifest.id:
                raise InvalidManifest(f"the store's '{name}' calls itself '{opened.id}'")
            return opened.networks

        return OpenedModel(
            id=manifest.id,
            family=manifest.family,
            description=manifest.description,
            owned_by=manifest.owned_by,
            created=int(manifest.created.timestamp()) if manifest.created else 0,
            resolution=manifest.resolution,
            channels=manifest.channels,
            pixel_range=manifest.pixel_range,
            networks=LazyNetworks(manifest.networks, networks),
            options=manifest.options,
            card={"license": manifest.license, "metrics": manifest.metrics},
        )


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
