"""Starting a server for a measurement, and stopping it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from services.serving.environment import free_ports

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 600.0
STOP_SECONDS = 60.0


def atelier(config: Path, port: int) -> list[str]:
    """The command that serves a config with Atelier's own server."""
    return [
        sys.executable, "-m", "services.cli", "serve", "--config", str(config),
        "--port", str(port),
    ]  # fmt: skip


@contextmanager
def serving(config: Path, *, provenance: bool = False) -> Iterator[str]:
    """Serve a Ray Serve config on a free port; yields its address.

    Args:
        config: of the server.
        provenance: whether images are signed. No peer signs any, and what it costs is a figure of
            its own (`loadtests.provenance`), so rates are compared without.

    Raises:
        RuntimeError: it did not become ready.
    """
    port = free_ports(1)[0]
    signed = {"ATELIER_PROVENANCE__ENABLED": str(provenance).lower()}
    with running(atelier(config, port), signed) as server:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/readyz", server)
        yield address


@contextmanager
def running(
    command: Sequence[str], variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own; ends it whatever happens.

    Args:
        command: of the server.
        variables: of its environment, besides our own.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    process = subprocess.Popen(  # noqa: S603 - our own command
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):  # some servers leave their workers behind
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(url: str, server: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until a URL answers with 200.

    Raises:
        RuntimeError: it did not in time, or the server has ended.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server is not None and server.poll() is not None:
            raise RuntimeError(f"the server ended with code {server.returncode}, not ready")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own server
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"{url} was not ready within {READY_SECONDS:g} s")
