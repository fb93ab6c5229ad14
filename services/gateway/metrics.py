"""The gateway's own Prometheus series, and the page that shows everybody's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from services.gateway.exemplars import Exemplars

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class GatewayMetrics:
    """Counters and histograms of the gateway, in the registry that was passed in.

    Label values are bounded: a route is its template, a model is one the backend knows or
    "unknown", a reason is an error code.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series; a registry takes them once."""
        self.registry = registry
        self._requests = Counter(
            "atelier_requests_total",
            "Requests answered, by HTTP status.",
            ("route", "model", "task", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "atelier_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ("route", "model"),
            buckets=SECONDS,
            registry=registry,
        )
        self._traced = Exemplars("atelier_request_seconds", ("route", "model"), SECONDS)
        self._rejected = Counter(
            "atelier_rejected_total",
            "Requests refused, by error code.",
            ("reason",),
            registry=registry,
        )
        self._canceled = Counter(
            "atelier_canceled_total",
            "Accepted calls withdrawn before they were done: by the client, by a DELETE from "
            "another connection, by the deadline or by the backend.",
            ("where",),
            registry=registry,
        )
        self._decisions = Counter(
            "atelier_safety_decisions_total",
            "Decisions of policies, by rule: allow, hold, refuse; and failed, where a policy gave "
            "none of its own.",
            ("policy", "decision"),
            registry=registry,
        )

    def decided(self, policy: str, decision: str) -> None:
        """Count what a policy decided: allow, hold, refuse, or that it failed."""
        self._decisions.labels(policy, decision).inc()

    def answered(
        self, *, route: str, model: str, task: str, code: int, seconds: float, trace_id: str = ""
    ) -> None:
        """Count one finished exchange; its trace, where one is kept, is found by its latency."""
        self._requests.labels(route, model, task, str(code)).inc()
        self._seconds.labels(route, model).observe(seconds)
        if trace_id:
            self._traced.note((route, model), seconds, trace_id)

    def rejected(self, reason: str) -> None:
        """Count a refusal by its error code."""
        self._rejected.labels(reason).inc()

    def canceled(self, where: str) -> None:
        """Count a withdrawn call."""
        self._canceled.labels(where).inc()

    def render(self, accept: str = "", more: Sequence[Metric] = ()) -> tuple[bytes, str]:
        """The page and its content type; of all processes where they share a directory.

        Args:
            accept: what the scraper takes; exemplars are shown to those who take OpenMetrics.
            more: series that are made for this page alone.
        """
        registry = self.registry
        if os.environ.get(MULTIPROCESS_VARIABLE):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        page = _Page(chain(self._traced.beside(iter(registry.collect())), more))
        if openmetrics.CONTENT_TYPE_LATEST.partition(";")[0] in accept.lower():
            return openmetrics.generate_latest(page), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
        return generate_latest(page), CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class _Page(Collector):
    """What is written down, which is asked for once."""

    metrics: Iterator[Metric]

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        return self.metrics
