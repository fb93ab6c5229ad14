"""Ray's switches, as environment variables that must be set before Ray is imported."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import MutableMapping
from pathlib import Path

from services.serving import haproxy
from services.serving.edge import EDGE_PATH, EDGE_VARIABLE

SWITCHES = {
    # HAProxy in front of the replicas, and user code on the replica's own event loop: about six
    # times the requests per second of the Python proxy.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A replica that died without having answered: ask again. Every request is idempotent, since
    # an answer that nobody saw has fixed no seed. Ten attempts are enough to find the replica
    # marked down and to reach the fallback, which waits for the next replica. A body can be sent
    # again as long as it fits the buffer.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 << 10),
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # Strips headers by which clients could switch Serve's protections off.
    EDGE_VARIABLE: EDGE_PATH,
    # On a busy machine a proxy needs longer than Ray's 5 s to start; it would be killed and begun
    # anew until starting Serve fails.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # Three failed looks at the proxy, and Serve starts another: at Ray's 10 s apart, a HAProxy that
    # was killed is missed for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "4",
    # What pools are scaled by is seconds old, not ten.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    # One machine: Ray's own services listen on the loopback alone, as they do by default on other
    # systems, and by this, whatever its name says, on Linux.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Whoever reaches a port of Ray's without its token is turned away, as a local Ray does anyway
    # where nothing else is said.
    "RAY_AUTH_MODE": "token",
    # No telemetry, and no idle workers waiting for tasks that never come.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    # A replica that is told to stop goes on listening for this long, so that the proxy can learn of
    # it; Ray would wait 30 s for load balancers far away.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    # Ray would have the engines stand back for whatever else runs on the machine.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

PROXY_FOLDER = "h"
"""Of a session: HAProxy's files, each in a folder named by 56 characters. A socket's path may have
97 of them, so names are short."""

PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


OWN_PORTS = range(20_000, 30_000)


def prepare(
    environment: MutableMapping[str, str],
    session: Path,
    *,
    body_seconds: float = haproxy.BODY_SECONDS,
    host: str = haproxy.LOOPBACK,
    port: int = 8000,
) -> None:
    """Set the switches that the operator has not set.

    Args:
        environment: usually ``os.environ``.
        session: a folder of this server's own, so that two of them can share a machine.
        body_seconds: how long a client may take to send a request.
        host: where clients reach the service.
        port: likewise.
    """
    proxy = session / PROXY_FOLDER
    own = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
        **dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True)),
    }
    for name, value in {**SWITCHES, **own}.items():
        environment.setdefault(name, value)
    environment.update(haproxy.wrap(proxy, body_seconds=body_seconds, host=host, port=port))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, from a range in which nobody else looks for one.

    HAProxy binds them seconds later. Any program's outgoing connection may take a port of the
    system's ephemeral range (from 32768 on) in the meantime; Ray's workers begin at 10002, its
    replicas at 30000.

    Raises:
        OSError: fewer than ``count`` are free.
    """
    found: list[int] = []
    for port in random.sample(OWN_PORTS, len(OWN_PORTS)):
        if len(found) == count:
            return found
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise OSError(errno.EADDRINUSE, f"no {count} ports are free in {OWN_PORTS}")
