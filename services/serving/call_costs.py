"""What a call will cost a pool's devices, as a gateway has learned it from the answers so far.

A gateway opens no networks and knows no cost curve. But every answer says how many device seconds
it took, and calls of one kind cost in proportion to their rows and steps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any

from services.core.job import Call

RATE = 0.2
"""How fast a price follows what answers say."""
KINDS_KEPT = 1024
"""Kinds of calls that are remembered; those that were not asked for the longest time go first."""
UNKNOWN_SECONDS = 0.25
"""Guessed for a call of a model of which nothing was answered yet."""
MOST = 10_000
"""More rows or steps than that are a request's error, not a measure of its work."""


class CallCosts:
    """Device seconds of calls, by kind. Safe from any thread."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._prices: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = Lock()

    def predict(self, call: Call) -> float:
        """Device seconds that a call is expected to take."""
        with self._lock:
            for kind in _kinds(call):
                if kind in self._prices:
                    return self._prices[kind] * _size(call)
        return UNKNOWN_SECONDS

    def learn(self, call: Call, device_seconds: float) -> None:
        """A call was answered, and took so many device seconds."""
        price = device_seconds / _size(call)
        with self._lock:
            for kind in _kinds(call):
                known = self._prices.get(kind, price)
                self._prices[kind] = known + RATE * (price - known)
                self._prices.move_to_end(kind)
            while len(self._prices) > KINDS_KEPT:
                self._prices.popitem(last=False)


def _kinds(call: Call) -> list[Hashable]:
    """What calls of about one price have in common: the closest first."""
    given = call.parameters
    sampler = given.get("sampler")
    guided = given.get("guidance_scale") not in (1, None)
    close = (
        call.model,
        call.name,
        sampler if isinstance(sampler, str) else None,
        guided,
        "steps" in given,
    )
    return [close, (call.model, call.name, "steps" in given)]


def _size(call: Call) -> int:
    """Rows times steps, as far as the call says; its fields are not checked yet."""
    rows = max(_count(call.parameters.get("n")), len(call.images), 1)
    return rows * max(_count(call.parameters.get("steps")), 1)


def _count(value: Any) -> int:
    return min(value, MOST) if isinstance(value, int) else 0
