"""The files of a store that lies in a bucket, or wherever else fsspec reaches."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from model_store.plain_files import CHUNK_BYTES
from services.core.errors import IntegrityFailure, InvalidParameter, Unavailable

T = TypeVar("T")

RETRY_AFTER_SECONDS = 5.0
_NAME = "[A-Za-z0-9][A-Za-z0-9@._-]*"
RECORD = re.compile(rf"(adapters/)?(models|signatures|plans|versions/{_NAME})/{_NAME}\.json")
"""What small files of a store are called, from its root; whatever else is there is left alone."""
BLOB = re.compile(r"(adapters/)?blobs/([0-9a-f]{64})")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as it was listed: ``stamp`` changes with its content; ``changed`` is since 1970."""

    stamp: str
    size: int
    changed: float | None


class RemoteFiles:
    """Blocks, as the network does; never used on an event loop."""

    def __init__(self, url: str) -> None:
        """Take a URL that fsspec opens; nothing is reached yet.

        Credentials are the file system's own: the environment's, or fsspec's configuration.

        Raises:
            InvalidParameter: no file system is installed for it.
        """
        self._url = url
        parts = urlsplit(url)
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        """The URL as it may be told: without whatever names a user."""
        try:
            fsspec.get_filesystem_class(parts.scheme)
        except (ValueError, ImportError) as error:
            raise InvalidParameter(
                f"the store '{self.shown}' cannot be opened: {error}", param="store"
            ) from error

    def listed(self) -> Mapping[str, RemoteFile]:
        """Every file of a store, by its path from the root.

        Raises:
            Unavailable: it cannot be reached.
        """
        found = self._asked(lambda files, root: files.find(root, detail=True))
        names = {self._relative(path): entry for path, entry in found.items()}
        return {
            name: RemoteFile(_stamp(entry), int(entry.get("size") or 0), _changed(entry))
            for name, entry in names.items()
            if RECORD.fullmatch(name) or BLOB.fullmatch(name)
        }

    def read(self, name: str) -> bytes:
        """A small file; raises `Unavailable`."""
        content: bytes = self._asked(lambda files, root: files.cat_file(f"{root}/{name}"))
        return content

    def fetch(self, name: str, target: IO[bytes], sha256: str) -> None:
        """Copy a file that is named by its digest.

        Raises:
            IntegrityFailure: it is another file than that.
            Unavailable: it cannot be read.
        """

        def copy(files: Any, root: str) -> str:
            digest = hashlib.sha256()
            with files.open(f"{root}/{name}", "rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
            return digest.hexdigest()

        found = self._asked(copy)
        if found != sha256:
            raise IntegrityFailure(
                f"'{name}' in {self.shown} is not the file that was stored: its SHA-256 is "
                f"{found[:16]}...; it was not opened"
            )

    def write(self, name: str, source: Path) -> None:
        """Put a file in the place of any other of the name; raises `Unavailable`."""
        self._asked(lambda files, root: files.put_file(str(source), f"{root}/{name}"))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; raises `Unavailable`."""
        self._asked(lambda files, root: files.rm_file(f"{root}/{name}"), missing=None)

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._opened[1]).lstrip("/")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        files, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
        return files, str(root).rstrip("/")

    def _asked(self, ask: Callable[[Any, str], T], **instead: T) -> T:
        try:
            return ask(*self._opened)
        except FileNotFoundError as error:
            if "missing" in instead:
                return instead["missing"]
            raise self._unavailable(error) from error
        except Exception as error:  # every file system has errors of its own
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> Unavailable:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return Unavailable(
            f"the store {self.shown} cannot be reached: {why}", retry_after=RETRY_AFTER_SECONDS
        )


def _stamp(entry: Mapping[str, Any]) -> str:
    marks = (entry.get(key) for key in ("ETag", "etag", "md5Hash", "generation", "version_id"))
    mark = next((str(mark) for mark in marks if mark), "")
    return f"{mark}/{entry.get('size')}/{_changed(entry)}"


def _changed(entry: Mapping[str, Any]) -> float | None:
    for key in ("LastModified", "mtime", "last_modified", "updated", "created"):
        when = entry.get(key)
        if isinstance(when, datetime):
            return when.timestamp()
        if isinstance(when, int | float):
            return float(when)
    return None
