"""One process's series, told of by the loops of all its pools."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry

from services.runtime.metrics import RuntimeMetrics
from services.runtime.ticket import Ticket


class ProcessMetrics:
    """What several loops of one process do: counters and histograms together, gauges summed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series; a registry takes them once."""
        self._metrics = RuntimeMetrics(registry)
        self._queues: dict[str, tuple[float, int]] = {}
        self._lock = Lock()

    def of_pool(self, name: str) -> PoolMetrics:
        """The observer of one pool's loop."""
        return PoolMetrics(self._metrics, self, name)

    def queued(self, pool: str, seconds: float, trajectories: int) -> None:
        """One pool's queue has changed."""
        with self._lock:
            self._queues[pool] = (seconds, trajectories)
            queues = self._queues.values()
            self._metrics.queued(sum(s for s, _ in queues), sum(t for _, t in queues))


class PoolMetrics:
    """Implements `services.runtime.observer.Observer` for one pool of a process."""

    def __init__(self, metrics: RuntimeMetrics, process: ProcessMetrics, name: str) -> None:
        """See `ProcessMetrics.of_pool`."""
        self._metrics, self._process, self._name = metrics, process, name

    def evaluated(self, model: str, stage: str, rows: int, limit: int, seconds: float) -> None:
        """See `Observer.evaluated`."""
        self._metrics.evaluated(model, stage, rows, limit, seconds)

    def finished(self, ticket: Ticket, outcome: str) -> None:
        """See `Observer.finished`."""
        self._metrics.finished(ticket, outcome)

    def answered(self, model: str, values: Mapping[str, Any]) -> None:
        """See `Observer.answered`."""
        self._metrics.answered(model, values)

    def queued(self, seconds: float, trajectories: int) -> None:
        """See `Observer.queued`."""
        self._process.queued(self._name, seconds, trajectories)

    def counted(self, model: str, counts: Mapping[str, int]) -> None:
        """See `Observer.counted`."""
        self._metrics.counted(model, counts)

    def loaded(self, model: str, seconds: float) -> None:
        """A model is ready to work."""
        self._metrics.loaded(model, seconds)
