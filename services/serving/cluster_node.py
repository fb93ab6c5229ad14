"""A node of a Ray cluster that somebody else deploys to, as KubeRay does.

``ray start`` alone leaves out what ``atelier serve`` sets up for a Ray of its own: the headers that
are stripped at the edge, HAProxy's own changes, words for an outage, log lines on standard error,
and a page with the series of every process. ``python -m services.serving.cluster_node`` puts them
in place and then runs ``ray start``. What it cannot do is keep ports off the network, since nodes
must reach one another: that is a firewall's work, a NetworkPolicy in Kubernetes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from services.core.errors import InvalidParameter
from services.core.logs import LogSettings
from services.serving import haproxy
from services.serving.environment import PROXY_FOLDER, SWITCHES
from services.serving.logs import LogPipe, resolved
from services.serving.replica_port import LOCAL_VARIABLE
from services.serving.server import FORMAT_VARIABLE, LOG_PIPE, PIPE_VARIABLE
from services.serving.shared_metrics import forget_dead

START_VARIABLE = "KUBERAY_GEN_RAY_START_CMD"
"""KubeRay's own ``ray start``, where the container has a command of ours."""
STATE = Path("/tmp/atelier")  # noqa: S108 - a container's own
METRICS_FOLDER = "metrics"
METRICS_PORT = 9464
OPEN_FILES = 65_536
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's address is not known beforehand; a policy guards it

OF_ONE_MACHINE = frozenset(
    {
        LOCAL_VARIABLE,  # nodes speak to one another over the network
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",  # load balancers are far away
    }
)
"""Switches of `services.serving.environment.SWITCHES` that would be wrong on several machines."""


class NodeSeries(Collector):
    """The series of all processes of this node, without the gauges of those that have ended."""

    def __init__(self, folder: Path) -> None:
        """Show what processes write into a folder; see `services.serving.shared_metrics`."""
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Called for every scrape."""
        forget_dead(self._folder)
        yield from MultiProcessCollector(None, str(self._folder)).collect()  # type: ignore[no-untyped-call]


def prepare_node(
    environment: MutableMapping[str, str],
    state: Path,
    *,
    body_seconds: float = haproxy.BODY_SECONDS,
    port: int = 8000,
) -> None:
    """Set, for ``ray start`` and all that it starts, the switches the operator has not set.

    Args:
        environment: usually ``os.environ``.
        state: a folder of this node's own; sockets lie in it, so its path must be short.
        body_seconds: how long a client may take to send a request.
        port: on which the service listens, on every address.
    """
    proxy = state / PROXY_FOLDER
    own = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
    }
    shared = {name: value for name, value in SWITCHES.items() if name not in OF_ONE_MACHINE}
    for name, value in {**shared, **own}.items():
        environment.setdefault(name, value)
    environment.update(haproxy.wrap(proxy, body_seconds=body_seconds, host=EVERYWHERE, port=port))


def fresh_metrics_folder(state: Path) -> Path:
    """An empty folder for the series of this node's processes.

    What an earlier container of the pod left there is removed: its process ids are given out anew.
    """
    folder = state / METRICS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def lines_gathered(
    environment: MutableMapping[str, str], state: Path, out: TextIO
) -> Iterator[None]:
    """Have the log lines of every replica on this node come out of one stream meanwhile."""
    pipe = state / LOG_PIPE
    pipe.unlink(missing_ok=True)
    lines = LogPipe(pipe, out)
    environment[PIPE_VARIABLE] = str(pipe)
    environment.setdefault(FORMAT_VARIABLE, resolved(LogSettings(), out))
    try:
        yield
    finally:
        lines.close()


def allow_open_files(wanted: int = OPEN_FILES) -> None:
    """Raise this process's limit of open files as far as it may be raised; Ray needs many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def command_of(arguments: Sequence[str], environment: MutableMapping[str, str]) -> list[str]:
    """What starts Ray: the arguments, or the command that KubeRay has left in the environment.

    Raises:
        InvalidParameter: there is neither.
    """
    if arguments:
        return list(arguments)
    if start := environment.get(START_VARIABLE):
        # It is written for a shell: it may name variables, and its values are quoted.
        return ["/bin/bash", "-c", f"exec {start}"]
    raise InvalidParameter(
        f"nothing says how Ray is started: give the command after `--`, such as `-- ray start "
        f"--head --block`, or set {START_VARIABLE} as KubeRay does under the annotation "
        "`ray.io/overwrite-container-cmd`"
    )


def run_until_told(command: Sequence[str]) -> int:
    """Run a command, pass on what this process is told, and give its exit status.

    A command that a signal ended has the status that a shell would give it.
    """
    process = subprocess.Popen(command)  # noqa: S603 - the operator's own command

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
        process.send_signal(number)

    previous = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node until Ray ends or is told to; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m services.serving.cluster_node", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--state", type=Path, default=STATE, help="folder of this node's own")
    parser.add_argument("--port", type=int, default=8000, help="where the service listens")
    parser.add_argument(
        "--metrics-port", type=int, default=METRICS_PORT, help="page with this node's series"
    )
    parser.add_argument(
        "--body-timeout", type=float, default=haproxy.BODY_SECONDS, help="seconds to send a request"
    )
    parser.add_argument("command", nargs="*", help=f"starts Ray; ${START_VARIABLE} by default")
    options = parser.parse_args(arguments)
    try:
        command = command_of(options.command, os.environ)
    except InvalidParameter as error:
        parser.error(error.message)
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    allow_open_files()
    prepare_node(os.environ, options.state, body_seconds=options.body_timeout, port=options.port)
    registry = CollectorRegistry()
    registry.register(NodeSeries(fresh_metrics_folder(options.state)))
    server, thread = start_http_server(options.metrics_port, EVERYWHERE, registry)
    try:
        with lines_gathered(os.environ, options.state, sys.stderr):
            return run_until_told(command)
    finally:
        server.shutdown()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
