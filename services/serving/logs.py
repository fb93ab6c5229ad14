"""Where a process's log lines go, and how those of several come out of one.

Ray keeps what a replica writes to standard error in a file of its session. `atelier serve` makes a
named pipe that all its processes write to, and passes on what comes out to its own standard error.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import sys
import threading
from pathlib import Path
from typing import TextIO

from services.core.logs import LONGEST_LINE, ConsoleLines, JsonLines, LogSettings

PIPE_BYTES = 1 << 20
"""What the pipe holds while nobody reads; lines beyond that are dropped, and counted."""
READ_BYTES = 1 << 16
LOOK_SECONDS = 0.25

RAYS = ("ray", "ray.serve")
"""Loggers with handlers of their own. What they say is in Ray's files; warnings are here too."""
SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


class PipeHandler(logging.Handler):
    """Writes lines to a named pipe; never waits for its reader.

    While the pipe is full, or nobody has it open, lines are dropped; the next that gets through is
    preceded by one that says how many.
    """

    def __init__(self, path: Path) -> None:
        """Take the pipe's path; it is opened for the first line."""
        super().__init__()
        self._path = path
        self._pipe: int | None = None
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)
            return
        if self._dropped:
            said = f"{self._dropped} log lines were dropped"
            lost = logging.LogRecord(__name__, logging.WARNING, "", 0, said, None, None)
            if not self._written(self.format(lost)):
                self._dropped += 1
                return
            self._dropped = 0
        if not self._written(line):
            self._dropped += 1

    def _written(self, line: str) -> bool:
        try:
            if self._pipe is None:
                self._pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            # At once and whole: a pipe mixes nothing up to this length.
            data = line.encode(errors="backslashreplace")[: LONGEST_LINE + 90] + b"\n"
            os.write(self._pipe, data)
        except BlockingIOError:
            return False
        except OSError:  # the reader is gone, or has not come yet
            self._close_pipe()
            return False
        return True

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def close(self) -> None:
        """See `logging.Handler.close`."""
        self._close_pipe()
        super().close()


def start_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Have this process log as the settings say, its servers' and Ray's warnings included.

    One line per request is the gateway's own (`services.gateway.middleware`): what uvicorn would
    say of it is switched off here, and what Ray Serve would in its logging config.

    Args:
        settings: the format, the level, and perhaps a pipe.
        stream: where lines go without a pipe; standard error by default.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream) if settings.pipe is None else PipeHandler(settings.pipe)
    handler.setFormatter(JsonLines() if resolved(settings, stream) == "json" else ConsoleLines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if type(old) in (logging.StreamHandler, PipeHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for ours in ("services", "model_store"):
        logging.getLogger(ours).setLevel(settings.level.upper())
    for name in SERVERS:
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = name != "uvicorn.access"
    warnings = _Only(handler)
    for name in RAYS:
        ray = logging.getLogger(name)
        for old in [h for h in ray.handlers if isinstance(h, _Only)]:
            ray.removeHandler(old)
        if not ray.propagate:
            ray.addHandler(warnings)
    logging.captureWarnings(capture=True)


def speak_for_serve() -> None:
    """Have all that Ray Serve says in this process be said as we say it.

    For a process that Serve gave no file of its own, and a handler with a format of its own.
    """
    serves = logging.getLogger("ray.serve")
    serves.handlers.clear()
    serves.propagate = True
    logging.getLogger("ray").propagate = True


class _Only(logging.Handler):
    """Hands a logger's warnings and errors on to a handler that is not its own."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__(logging.WARNING)
        self._handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        self._handler.handle(record)


def resolved(settings: LogSettings, stream: TextIO) -> str:
    """The format that ``auto`` stands for: ``console`` on a terminal, else ``json``."""
    if settings.format != "auto":
        return settings.format
    return "console" if stream.isatty() else "json"


class LogPipe:
    """A named pipe whose lines are passed on to a stream, in a thread of its own."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        """Make the pipe and begin to read."""
        self.path = path
        self._stream = stream
        os.mkfifo(path, 0o600)
        # Open for writing too, so that there is an end only when we say so.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="atelier-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Pass on what is left, and remove the pipe."""
        self._done.set()
        self._thread.join(timeout=5.0)
        self.path.unlink(missing_ok=True)

    def _carry(self) -> None:
        while True:
            readable, _, _ = select.select([self._pipe], [], [], LOOK_SECONDS)
            if readable:
                data = os.read(self._pipe, READ_BYTES)
                self._stream.write(data.decode(errors="backslashreplace"))
                self._stream.flush()
            elif self._done.is_set():
                os.close(self._pipe)
                return
