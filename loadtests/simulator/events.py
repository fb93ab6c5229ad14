"""Simulated time: what happens next."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Events:
    """Calls in the order of their moments; those of one moment in the order they were planned."""

    def __init__(self) -> None:
        """Begin at 0, with nothing planned."""
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0

    def clock(self) -> float:
        """Seconds since the beginning, for code that asks a clock."""
        return self.now

    def at(self, moment: float, call: Callable[[], None]) -> None:
        """Plan a call."""
        self._planned += 1
        heapq.heappush(self._heap, (moment, self._planned, call))

    def run(self, until: float = float("inf")) -> None:
        """Let time pass until a moment, or until nothing is planned."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, call = heapq.heappop(self._heap)
            call()
