"""Opened adapters in memory, up to a number of bytes; the least recently used one leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class ResidentAdapters(Generic[T]):
    """Shared by the models of one device.

    A row in flight keeps what it uses for itself, so nothing is taken from under it.
    """

    def __init__(self, most_bytes: int) -> None:
        """Hold up to ``most_bytes``; the latest stays even if it alone is larger."""
        self._most = most_bytes
        self._held: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._lock = Lock()
        self._opening: dict[str, Lock] = {}

    @property
    def bytes(self) -> int:
        """What is held now."""
        with self._lock:
            return sum(size for _, size in self._held.values())

    def holds(self, key: str) -> bool:
        """Whether it is there."""
        with self._lock:
            return key in self._held

    def get(self, key: str, open_it: Callable[[], tuple[T, int]]) -> T:
        """What is held under ``key``, opened first unless it is there; several askers open it once.

        Args:
            key: names the content, not the place: another content, another key.
            open_it: gives it, with its bytes; an exception is passed on and nothing is held.
        """
        with self._lock:
            opening = self._opening.setdefault(key, Lock())
        with opening:
            with self._lock:
                if key in self._held:
                    self._held.move_to_end(key)
                    return self._held[key][0]
            value, size = open_it()
            with self._lock:
                self._opening.pop(key, None)
                self._held[key] = value, size
                while len(self._held) > 1 and self._total() > self._most:
                    self._held.popitem(last=False)
            return value

    def _total(self) -> int:
        return sum(size for _, size in self._held.values())
