"""What the loop does, as Prometheus series."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.runtime.ticket import Ticket

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
BITS = (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def memory_bytes() -> int:
    """Bytes that this process holds: of CUDA memory, or resident where it has used none."""
    if torch.cuda.is_initialized():
        return sum(torch.cuda.memory_reserved(i) for i in range(torch.cuda.device_count()))
    try:
        resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # no Linux: the most that it ever held, in kilobytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(resident) * resource.getpagesize()


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
        self._bits = Histogram(
            "atelier_likelihood_bits_per_dim",
            "Bits per dimension of the images that were judged: what drifts when they do.",
            ["model"],
            registry=registry,
            buckets=BITS,
        )
        self._memory = Gauge(
            "atelier_device_memory_bytes",
            "Memory that the process holds: on its CUDA devices, or resident where it uses none.",
            registry=registry,
            multiprocess_mode="livesum",
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

    def answered(self, model: str, values: Mapping[str, Any]) -> None:
        """See `Observer.answered`; of a judgement, its bits per dimension are shown."""
        bits = values.get("bits_per_dim")
        if isinstance(bits, float) and math.isfinite(bits):
            self._bits.labels(model).observe(bits)

    def loaded(self, model: str, seconds: float) -> None:
        """A model is ready to work."""
        self._load.labels(model).observe(seconds)
        self._memory.set(memory_bytes())

    def queued(self, seconds: float, trajectories: int) -> None:
        """See `Observer.queued`; memory is looked at when the queue has become empty."""
        if not trajectories:
            self._memory.set(memory_bytes())
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
