"""Reading files that must be plain: regular, no link, within a size.

Small ones are read once into memory. Large ones are streamed, to a digest or to a copy with its
digest, a chunk at a time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.core.errors import IntegrityFailure, TooLarge, UnsafeModel

CHUNK_BYTES = 4 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def read_plain(folder: Path, name: str, limit: int) -> bytes:
    """The whole content of ``folder/name``, where ``name`` is a plain base name.

    Raises:
        UnsafeModel: the name has a separator, or the file is a link or no regular file.
        IntegrityFailure: there is no such file.
        TooLarge: it is larger than ``limit`` bytes.
    """
    handle = _open(folder, name)
    with os.fdopen(handle, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > limit else file.read(limit + 1)
    if size > limit or len(data) > limit:
        raise _too_large(name, limit)
    return data


def read_start(folder: Path, name: str, count: int) -> bytes:
    """The first ``count`` bytes of ``folder/name``; raises what `read_plain` does."""
    with os.fdopen(_open(folder, name), "rb") as file:
        return file.read(count)


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file that is too large for memory: ``folder/name``, of at most ``limit`` bytes.

    Its methods raise what `read_plain` does.
    """

    folder: Path
    name: str
    limit: int

    def size(self) -> int:
        """Bytes in it now."""
        with os.fdopen(_open(self.folder, self.name), "rb") as file:
            return os.fstat(file.fileno()).st_size

    def digest(self) -> str:
        """See `digest`."""
        found = hashlib.sha256()
        for chunk in self._chunks():
            found.update(chunk)
        return found.hexdigest()

    def copy_to(self, target: IO[bytes]) -> str:
        """Write it all to ``target``; returns the digest of what was written."""
        found = hashlib.sha256()
        for chunk in self._chunks():
            found.update(chunk)
            target.write(chunk)
        return found.hexdigest()

    def _chunks(self) -> Iterator[bytes]:
        left = self.limit
        with os.fdopen(_open(self.folder, self.name), "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise _too_large(self.name, self.limit)
                yield chunk


def digest(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _too_large(name: str, limit: int) -> TooLarge:
    return TooLarge(f"'{name}' is larger than the {limit:,} bytes that such a file may have")


def _open(folder: Path, name: str) -> int:
    if name in {"", ".", ".."} or "/" in name or os.sep in name or "\0" in name:
        raise UnsafeModel(f"'{name[:128]}' is no plain file name inside the model's folder")
    try:
        handle = os.open(folder / name, _OPEN_FLAGS)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise UnsafeModel(f"'{name}' is a symbolic link; put the file itself there") from error
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            raise IntegrityFailure(f"'{name}' is missing") from error
        if error.errno == errno.ENXIO:
            raise UnsafeModel(f"'{name}' is not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnsafeModel(f"'{name}' is not a regular file")
    return handle
