"""How many rows fit into the device's memory: taught by running out of it, forgotten with time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

TRIES = 200
"""Evaluations at a cap before a larger one is tried: what took the memory may have gone."""
GROWTH = 1.25

Kind = tuple[str, Hashable]
"""A stage and a workload key."""


@dataclass(slots=True)
class _Cap:
    """``before`` is the cap that this one was grown from, 0 where it was not."""

    rows: int
    before: int = 0
    fitted: int = 0


class RowCaps:
    """Row limits of one model, by stage and workload key. None is set until memory runs out."""

    def __init__(self) -> None:
        self._caps: dict[Kind, _Cap] = {}

    def limit(self, kind: Kind, otherwise: int) -> int:
        """The rows that are known to fit, but at most ``otherwise``."""
        cap = self._caps.get(kind)
        return otherwise if cap is None else min(cap.rows, otherwise)

    def lower(self, kind: Kind, rows: int) -> None:
        """Twice as many rows did not fit; where that was a first try, the cap before it holds."""
        cap = self._caps.get(kind)
        fallback = cap.before if cap is not None and not cap.fitted else 0
        self._caps[kind] = _Cap(max(1, rows, fallback))

    def fitted(self, kind: Kind, rows: int) -> None:
        """An evaluation of so many rows went well; from time to time the cap is tried anew."""
        cap = self._caps.get(kind)
        if cap is None or rows < cap.rows:
            return
        cap.fitted += 1
        if cap.fitted >= TRIES:
            self._caps[kind] = _Cap(max(cap.rows + 1, int(cap.rows * GROWTH)), before=cap.rows)
