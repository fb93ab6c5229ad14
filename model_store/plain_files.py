"""Reading files that must be plain: regular, no link, within a size, read once into memory."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from services.core.errors import IntegrityFailure, TooLarge, UnsafeModel

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
        raise TooLarge(f"'{name}' is larger than the {limit:,} bytes that such a file may have")
    return data


def read_start(folder: Path, name: str, count: int) -> bytes:
    """The first ``count`` bytes of ``folder/name``; raises what `read_plain` does."""
    with os.fdopen(_open(folder, name), "rb") as file:
        return file.read(count)


def digest(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


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
