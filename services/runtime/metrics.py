"""What the loop does, as Prometheus series."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.runtime.ticket import Ticket

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class RuntimeMetrics:
    """Implements `services.runtime.observer.Observer`.

    Labels come from the store's own names, never from a request.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        """Register the series; ``None`` where they live in files shared between processes."""
        self._queue = Histogram(
            "atelier_queue_seconds",
            "Seconds that a row waited.",
            ["model"],
            registry=registry,
            buckets=SECONDS,
        )
        self._stage = Histogram(
            "atelier_stage_seconds",
            "Seconds of a batch in a stage.",
            ["model", "stage"],
            registry=registry,
            buckets=SECONDS,
        )
        self._images = Counter(
            "atelier_images", "Rows finished.", ["model", "task"], registry=registry
        )
        self._evaluations = Counter(
            "atelier_network_evaluations", "Batched evaluations.", ["model"], registry=registry
        )
        self._rows = Histogram(
            "atelier_batch_rows", "Rows of a batch.", ["model"], registry=registry, buckets=ROWS
        )
        self._fill = Histogram(
            "atelier_batch_fill_ratio",
            "Rows of a batch over the rows at which another no longer pays.",
            ["model"],
            registry=registry,
            buckets=RATIOS,
        )
        self._load = Histogram(
            "atelier_model_load_seconds",
            "Seconds to open and measure a model.",
            ["model"],
            registry=registry,
            buckets=SECONDS,
        )
        self._outcomes = Counter(
            "atelier_rows", "Rows by outcome.", ["model", "outcome"], registry=registry
        )
        self._prompts = Counter(
            "atelier_prompt_cache_lookups",
            "Prompts looked up among those already encoded.",
            ["model", "outcome"],
            registry=registry,
        )
        self._counted: dict[tuple[str, str], int] = {}
        self._backlog = Gauge(
            "atelier_queue_device_seconds",
            "Predicted device seconds of accepted work.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._trajectories = Gauge(
            "atelier_trajectories",
            "Rows accepted and unfinished.",
            ["state"],
            registry=registry,
            multiprocess_mode="livesum",
        )

    def evaluated(self, model: str, stage: str, rows: int, limit: int, seconds: float) -> None:
        """See `Observer.evaluated`."""
        self._stage.labels(model, stage).observe(seconds)
        if stage == "prepare":
            return
        self._evaluations.labels(model).inc()
        self._rows.labels(model).observe(rows)
        self._fill.labels(model).observe(rows / limit)

    def finished(self, ticket: Ticket, outcome: str) -> None:
        """See `Observer.finished`."""
        model = ticket.model.id
        self._outcomes.labels(model, outcome).inc()
        if outcome != "succeeded":
            return
        self._images.labels(model, ticket.job.name).inc()
        waited = max(0.0, ticket.touched - ticket.submitted - ticket.busy_seconds)
        self._queue.labels(model).observe(waited)

    def loaded(self, model: str, seconds: float) -> None:
        """A model is ready to work."""
        self._load.labels(model).observe(seconds)

    def queued(self, seconds: float, trajectories: int) -> None:
        """See `Observer.queued`."""
        self._backlog.set(seconds)
        self._trajectories.labels("accepted").set(trajectories)

    def counted(self, model: str, counts: Mapping[str, int]) -> None:
        """See `Observer.counted`; a total that fell is that of a model that was opened anew."""
        for outcome, name in (("hit", "prompt_cache_hits"), ("miss", "prompt_cache_misses")):
            total = counts.get(name, 0)
            known = self._counted.get((model, outcome), 0)
            self._counted[model, outcome] = total
            if more := total - known if total >= known else total:
                self._prompts.labels(model, outcome).inc(more)
