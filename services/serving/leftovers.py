"""What Ray may leave behind when it is stopped, and how it is cleared away."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from services.core.errors import Unavailable
from services.serving.environment import PROXY_FOLDER

RETRY_AFTER_SECONDS = 5


def clear(session: Path) -> None:
    """End every process that was started for a session, and remove its folder.

    HAProxy outlives the actor that started it when that actor is killed.
    """
    for process in _processes_of(session):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    shutil.rmtree(session, ignore_errors=True)


def _processes_of(session: Path) -> Iterator[int]:
    """Processes with the session's folder on their command line; none where there is no /proc."""
    marker = str(session).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if marker in command and int(entry.name) != os.getpid():
            yield int(entry.name)


def outage_page() -> str:
    """The whole answer, in our own words, to a request that no replica answers."""
    error = Unavailable("no replica is available; it is being restarted")
    body = json.dumps(
        {"error": {"message": error.message, "type": "server_error", "param": None,
                   "code": error.code}}
    )  # fmt: skip
    return (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/json\r\n"
        f"Retry-After: {RETRY_AFTER_SECONDS}\r\n"
        "Cache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n"
        f"\r\n{body}"
    )


def explain_outage(session: Path) -> None:
    """Have HAProxy say what is going on when no replica answers.

    Ray gives it one error page, a bare 500, which it reads whenever its config changes.
    """
    page = outage_page()
    for path in (session / PROXY_FOLDER).rglob("500.http"):
        path.write_text(page, encoding="ascii")
