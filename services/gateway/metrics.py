"""The gateway's own Prometheus series, and the page that shows everybody's."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    multiprocess,
)

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

    def answered(self, *, route: str, model: str, task: str, code: int, seconds: float) -> None:
        """Count one finished exchange."""
        self._requests.labels(route, model, task, str(code)).inc()
        self._seconds.labels(route, model).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a refusal by its error code."""
        self._rejected.labels(reason).inc()

    def canceled(self, where: str) -> None:
        """Count a withdrawn call."""
        self._canceled.labels(where).inc()

    def render(self) -> tuple[bytes, str]:
        """The text page and its content type; of all processes where they share a directory."""
        registry = self.registry
        if os.environ.get(MULTIPROCESS_VARIABLE):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
