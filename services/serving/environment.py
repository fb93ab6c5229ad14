"""Ray's switches, as environment variables that must be set before Ray is imported."""

from __future__ import annotations

from collections.abc import MutableMapping

from services.serving.edge import EDGE_PATH, EDGE_VARIABLE

SWITCHES = {
    # HAProxy in front of the replicas, and user code on the replica's own event loop: about six
    # times the requests per second of the Python proxy.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A replica that dies without having answered: ask again elsewhere. Requests are idempotent
    # only once their seed is fixed, and an answer that nobody saw fixed nothing.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    # Strips headers by which clients could switch Serve's protections off.
    EDGE_VARIABLE: EDGE_PATH,
    # No telemetry, and no idle workers waiting for tasks that never come.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set the switches that the operator has not set."""
    for name, value in SWITCHES.items():
        environment.setdefault(name, value)
