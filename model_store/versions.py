"""The versions of a model that are kept beside the one that is served.

Each is a manifest at ``versions/<name>/<digest>.json`` below the root of a store. The one that is
served stands elsewhere, and need not be among them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from model_store.atomic_files import write_atomic
from model_store.read_cache import ReadCache
from services.core.errors import IntegrityFailure, InvalidParameter, ModelNotFound

FOLDER = "versions"
_NAME = re.compile(r"([0-9a-f]{64})\.json")


class Versioned(Protocol):
    """A manifest."""

    def model_dump(self, *, mode: Literal["json"], exclude_defaults: bool) -> dict[str, Any]:
        """Itself as plain values."""
        ...

    def model_dump_json(self, *, indent: int | None = ..., exclude_defaults: bool = ...) -> str:
        """Itself as text."""
        ...


R = TypeVar("R", bound=Versioned)


def digest_of(manifest: Versioned) -> str:
    """A version's digest: SHA-256 of the manifest's values in JSON with sorted keys.

    Values that are a field's default are left out, so that a field which a later release adds
    changes no digest.
    """
    values = manifest.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def one_of(name: str, prefix: str, digests: list[str]) -> str:
    """The one digest that begins so.

    Raises:
        ModelNotFound: none does; the message names those that there are.
        InvalidParameter: several do.
    """
    found = sorted({digest for digest in digests if digest.startswith(prefix)})
    if len(found) > 1:
        raise InvalidParameter(
            f"{len(found)} versions of '{name}' begin with {prefix}; give more digits",
            param="model",
        )
    if not found:
        known = ", ".join(f"{digest[:12]}..." for digest in sorted(set(digests))[:8])
        raise ModelNotFound(
            f"'{name}' has no version {prefix[:12]}...; it has {known or 'none'}", param="model"
        )
    return found[0]


class VersionFolder(Generic[R]):
    """Reads need no lock; whoever writes holds the store's."""

    def __init__(self, root: Path, read: Callable[[Path], R]) -> None:
        """Keep them below the store's ``root``; ``read`` reads a manifest."""
        self._root = root / FOLDER
        self._cache: ReadCache[R] = ReadCache(read)

    def names(self) -> list[str]:
        """The models of which versions are kept."""
        return [path.name for path in self._root.iterdir()] if self._root.is_dir() else []

    def digests(self, name: str) -> list[str]:
        """Those that are kept of one model, in no order."""
        folder = self._root / name
        if not folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
        return [match.group(1) for match in found if match]

    def manifest(self, name: str, digest: str) -> R:
        """One that `digests` has named.

        Raises:
            ModelNotFound: it was removed meanwhile.
            IntegrityFailure: it is not the manifest of that digest.
            InvalidManifest: it is unreadable.
        """
        path = self._path(name, digest)
        if not path.exists():
            raise ModelNotFound(f"'{name}' has no version {digest[:12]}...", param="model")
        manifest = self._cache.get(path)
        if digest_of(manifest) != digest:
            raise IntegrityFailure(
                f"version {digest[:12]}... of '{name}' is not the manifest that was stored"
            )
        return manifest

    def keep(self, name: str, manifest: R) -> str:
        """Keep a version; returns its digest."""
        digest = digest_of(manifest)
        write_atomic(self._path(name, digest), manifest.model_dump_json(indent=2).encode())
        return digest

    def forget(self, name: str, digest: str) -> None:
        """Keep a version no longer, if it was kept at all."""
        self._path(name, digest).unlink(missing_ok=True)
        folder = self._root / name
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _path(self, name: str, digest: str) -> Path:
        return self._root / name / f"{digest}.json"
