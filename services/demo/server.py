"""The service as a process of its own, for as long as it is needed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from rich.console import Console

from services.core.errors import Unavailable

READY_SECONDS = 180.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.25
LAST_LINES = 15


@contextlib.contextmanager
def running_server(console: Console, config: Path, preferred_port: int = 8000) -> Iterator[str]:
    """Start the service and yield its URL once it takes work; nothing of it outlives the block.

    Raises:
        Unavailable: it ended, or was not ready in time; says what it printed last.
    """
    port = free_port(preferred_port)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "services.cli", "serve"]
    command += ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="atelier-demo-") as folder,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
    ):
        # The tour has no key, whatever keys the user has made for services of their own.
        own = {**os.environ, "ATELIER_KEY_FILE": str(Path(folder) / "keys.json")}
        # A process group of its own: Ctrl-C reaches this program alone, which then stops the other.
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            command, env=own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with console.status(f"starting the service at {url}"):
                wait_until_ready(process, url)
            yield url
        except Unavailable as error:
            log.seek(0)
            last = "".join(log.readlines()[-LAST_LINES:]).rstrip()
            raise Unavailable(f"{error.message}\n{last}") from error
        finally:
            with console.status("stopping the service"):
                stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Return once ``/readyz`` says so.

    Raises:
        Unavailable: the process ended first, or time is up.
    """
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Unavailable(f"the service ended with code {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=5.0).is_success:
                return
        time.sleep(POLL_SECONDS)
    raise Unavailable(f"the service was not ready within {READY_SECONDS:g} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to drain and end; end its whole group if it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port(preferred: int) -> int:
    """The preferred port if nobody has it, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                number: int = probe.getsockname()[1]
                return number
    raise Unavailable("no port is free on this machine")
