"""Who is told what a loop does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from services.runtime.ticket import Ticket


class Observer(Protocol):
    """Is told what the loop does; the metrics implement it."""

    def evaluated(self, model: str, stage: str, rows: int, limit: int, seconds: float) -> None:
        """One evaluation of a batch is over."""
        ...

    def finished(self, ticket: Ticket, outcome: str) -> None:
        """A ticket left: ``succeeded``, ``failed``, ``canceled`` or ``expired``."""
        ...

    def answered(self, model: str, values: Mapping[str, Any]) -> None:
        """A row's answer holds these values besides its image."""
        ...

    def queued(self, seconds: float, trajectories: int) -> None:
        """Reserved device seconds and rows in flight have changed."""
        ...

    def counted(self, model: str, counts: Mapping[str, int]) -> None:
        """A model's running totals (`Engine.counts`), after rows of it were prepared."""
        ...


class Silence:
    """The observer that ignores everything."""

    def evaluated(self, model: str, stage: str, rows: int, limit: int, seconds: float) -> None:
        """Ignore."""

    def finished(self, ticket: Ticket, outcome: str) -> None:
        """Ignore."""

    def answered(self, model: str, values: Mapping[str, Any]) -> None:
        """Ignore."""

    def queued(self, seconds: float, trajectories: int) -> None:
        """Ignore."""

    def counted(self, model: str, counts: Mapping[str, int]) -> None:
        """Ignore."""
