"""A parsed file, kept until the file changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadCache(Generic[T]):
    """Reads again only when a file's identity, size or time of change differ."""

    def __init__(self, read: Callable[[Path], T]) -> None:
        """Read by ``read``; an exception of it is passed on and not kept."""
        self._read = read
        self._kept: dict[Path, tuple[tuple[int, int, int], T]] = {}

    def get(self, path: Path) -> T:
        """The content of ``path`` as it is now."""
        try:
            status = path.lstat()
        except FileNotFoundError:
            self._kept.pop(path, None)
            return self._read(path)
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        value = self._read(path)
        self._kept[path] = (stamp, value)
        return value
