"""A store in a bucket, as a folder: its small files mirrored, its large ones fetched when needed.

The folder is what `model_store.user_store` reads, so nothing else knows that the store is remote.
Blobs are named by their digest, checked before they are given their name, and let go, the one used
longest ago first, when they take too much room. Processes of a machine share the folder: they take
turns by a lock file, every file appears whole, and where the remote is down what is there goes on
being served.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store.atomic_files import atomic_file, locked, write_atomic
from model_store.remote import BLOB, RECORD, RemoteFile, RemoteFiles
from services.core.errors import TooLarge, Unavailable

MAX_RECORD_BYTES = 1 << 20
GRACE_SECONDS = 3600.0
"""A file of the remote that no model names is kept for so long: somebody may be adding it."""
_STATE = ".mirror.json"
_LAST = {"models": 1, "plans": 2}

log = logging.getLogger(__name__)


class MirrorSettings(BaseSettings):
    """``ATELIER_MODELS__CACHE_FOLDER`` and so on: where a remote store is mirrored.

    Attributes:
        cache_folder: below which each remote store has its folder.
        cache_bytes: the most that the large files of one remote store may take there.
        refresh_seconds: how old a look at the remote may be.
    """

    model_config = SettingsConfigDict(env_prefix="ATELIER_MODELS__", frozen=True, extra="forbid")

    cache_folder: Path | None = None
    cache_bytes: int = Field(default=64 << 30, ge=1 << 20)
    refresh_seconds: float = Field(default=5.0, ge=0, le=3600)

    def folder_of(self, url: str) -> Path:
        """Where the store at ``url`` is mirrored."""
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = base if base.is_absolute() else Path.home() / ".cache"
        folder = self.cache_folder or base / "atelier" / "stores"
        return folder.expanduser() / hashlib.sha256(url.encode()).hexdigest()[:32]


class Mirror:
    """Blocks, as the network does; never used on an event loop."""

    def __init__(self, url: str, settings: MirrorSettings | None = None) -> None:
        """Bring the mirror of the store at ``url`` up to date, or make it.

        Raises:
            InvalidParameter: no file system is installed for the URL.
            Unavailable: the remote cannot be reached, and was never mirrored here.
        """
        self._settings = settings or MirrorSettings()
        self._remote = RemoteFiles(url)
        self.root = self._settings.folder_of(url)
        self._down = False
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.root / _STATE).exists():
            with locked(self.root / ".lock"):
                self._take_over()
        else:
            self.refresh()

    def refresh(self) -> None:
        """Take over what changed in the remote, unless that was done lately.

        Where it cannot be reached, what is here stays, and it is logged once.
        """
        with locked(self.root / ".lock"):
            if 0 <= time.time() - self._listed_at() < self._settings.refresh_seconds:
                return
            try:
                self._take_over()
            except Unavailable as error:
                if not self._down:
                    log.warning("%s; what is cached goes on being served", error)
                self._down = True
            else:
                self._down = False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What is written into the folder within is in the remote after it.

        The mirror is as new as can be when the block begins. Where the block raises, or the remote
        does not take it all, the mirror goes back to what the remote has.

        Raises:
            Unavailable: the remote cannot be reached, or did not take it all.
        """
        with locked(self.root / ".lock"):
            before = self._take_over()
            try:
                yield
                self._hand_over(before)
            except BaseException:
                self._distrust()
                with contextlib.suppress(Unavailable):
                    self._take_over()
                raise
            self._take_over()

    def fetch(self, folder: Path, sha256: str) -> None:
        """Have a blob in its folder, fetched and checked if it is not there.

        Raises:
            IntegrityFailure: the remote's file is not the one of that digest.
            TooLarge: it is larger than the whole cache may be.
            Unavailable: the remote cannot be reached, or has no such file.
        """
        path = folder / sha256
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return
        name = path.relative_to(self.root).as_posix()
        with locked(self.root / ".fetching" / sha256[:2]):
            if path.exists():
                return
            self._make_room(int(self._state().get("blobs", {}).get(name, 0)))
            with atomic_file(path, mode=0o444) as target:
                self._remote.fetch(name, target, sha256)

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """Bytes of the remote's blobs of one folder, by their digests, as they were last listed."""
        start = f"{folder.relative_to(self.root).as_posix()}/"
        blobs: dict[str, int] = self._state().get("blobs", {})
        return {name.removeprefix(start): n for name, n in blobs.items() if name.startswith(start)}

    def collect(self, folder: Path, used: Collection[str]) -> None:
        """Remove from the remote the blobs of a folder that nothing names, unless they are new.

        Raises:
            Unavailable: the remote cannot be reached.
        """
        start = f"{folder.relative_to(self.root).as_posix()}/"
        for name, file in self._remote.listed().items():
            old = file.changed is not None and time.time() - file.changed > GRACE_SECONDS
            unused = BLOB.fullmatch(name) and name.removeprefix(start) not in used
            if old and unused and name.startswith(start):
                self._remote.remove(name)

    def _distrust(self) -> None:
        """Whatever is here is to be read again before it counts as the remote's."""
        state = {"listed": 0.0, "records": {}, "blobs": self._state().get("blobs", {})}
        write_atomic(self.root / _STATE, json.dumps(state).encode())

    def _take_over(self) -> Mapping[str, RemoteFile]:
        """Make the small files here those of the remote; returns what it has."""
        listing = self._remote.listed()
        records = {name: file for name, file in listing.items() if RECORD.fullmatch(name)}
        known = self._state().get("records", {})
        kept: dict[str, str] = {}
        for name in sorted(records, key=_in_order):
            file = records[name]
            if file.size > MAX_RECORD_BYTES:
                log.warning("'%s' of the store is too large to be a record; left out", name)
                continue
            if known.get(name) != file.stamp or not (self.root / name).exists():
                write_atomic(self.root / name, self._remote.read(name))
            kept[name] = file.stamp
        for name in self._records():
            if name not in kept:
                (self.root / name).unlink(missing_ok=True)
        blobs = {name: file.size for name, file in listing.items() if BLOB.fullmatch(name)}
        state = {"listed": time.time(), "records": kept, "blobs": blobs}
        write_atomic(self.root / _STATE, json.dumps(state).encode())
        return listing

    def _hand_over(self, before: Mapping[str, RemoteFile]) -> None:
        """Make the remote's small files those that are here, and add the blobs that it lacks."""
        stamps, here = self._state()["records"], self._records()
        for path in [*self.root.glob("blobs/*"), *self.root.glob("adapters/blobs/*")]:
            name = path.relative_to(self.root).as_posix()
            if BLOB.fullmatch(name) and name not in before:
                self._remote.write(name, path)
        for name in sorted(here, key=_in_order):
            if stamps.get(name) is None or here[name] >= self._listed_at_ns():
                self._remote.write(name, self.root / name)
        for name in sorted(stamps, key=_in_order, reverse=True):
            if name not in here:
                self._remote.remove(name)

    def _records(self) -> dict[str, int]:
        """The small files that are here, with when they were written (ns)."""
        found = {}
        for path in self.root.rglob("*.json"):
            name = path.relative_to(self.root).as_posix()
            if RECORD.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    found[name] = path.stat().st_mtime_ns
        return found

    def _make_room(self, size: int) -> None:
        most = self._settings.cache_bytes
        if size > most:
            raise TooLarge(
                f"a file of {size:,} bytes does not fit into the cache of {most:,}; raise "
                "ATELIER_MODELS__CACHE_BYTES"
            )
        found = []
        for path in [*self.root.glob("blobs/*"), *self.root.glob("adapters/blobs/*")]:
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(bytes_ for _, bytes_, _ in found) + size - most
        for _, bytes_, path in sorted(found):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= bytes_

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.root / _STATE).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return state

    def _listed_at(self) -> float:
        listed = self._state().get("listed", 0.0)
        return float(listed) if isinstance(listed, int | float) else 0.0

    def _listed_at_ns(self) -> int:
        try:
            return (self.root / _STATE).stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def _in_order(name: str) -> tuple[int, str]:
    """What names others comes after them."""
    return _LAST.get(name.removeprefix("adapters/").partition("/")[0], 0), name
