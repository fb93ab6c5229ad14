"""How the files of one model are read: small ones as bytes, large ones as a verified copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from model_store.plain_files import PlainFile
from model_store.store import Store
from services.core.errors import IntegrityFailure


class Read(Protocol):
    """Gives the verified bytes of a file that the model's manifest names."""

    def __call__(self, file: str, /) -> bytes:
        """Raises `ModelError` where it is missing or another."""
        ...


@runtime_checkable
class Copy(Protocol):
    """Can also put them at a path without holding them in memory."""

    def copy(self, file: str, target: Path) -> None:
        """Raises what reading does; ``target`` stays only if it was verified."""
        ...


def copied(read: Read, file: str, target: Path) -> None:
    """Put a file at a path: streamed where the reader can."""
    if isinstance(read, Copy):
        read.copy(file, target)
    else:
        target.write_bytes(read(file))


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """The files of a stored model."""

    store: Store
    model_id: str

    def __call__(self, file: str, /) -> bytes:
        """See `Store.read`."""
        return self.store.read(self.model_id, file)

    def copy(self, file: str, target: Path) -> None:
        """See `Store.copy`."""
        self.store.copy(self.model_id, file, target)


@dataclass(frozen=True, slots=True)
class DraftedFiles:
    """The files of a model that is being added, and the digests of those that were not read."""

    contents: Mapping[str, bytes]
    weights: Mapping[str, PlainFile]
    digests: Mapping[str, str]

    def __call__(self, file: str, /) -> bytes:
        """One that is in memory."""
        return self.contents[file]

    def copy(self, file: str, target: Path) -> None:
        """Any of them.

        Raises:
            IntegrityFailure: it changed since its digest was taken.
        """
        if file in self.contents:
            target.write_bytes(self.contents[file])
            return
        with target.open("wb") as copy:
            found = self.weights[file].copy_to(copy)
        if found != self.digests[file]:
            target.unlink()
            raise IntegrityFailure(f"'{file}' changed while it was being added")
