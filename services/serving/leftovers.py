"""What Ray may leave behind when it is stopped, and how it is cleared away."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from services.jobs.replicas import has_died, this_process

SESSION_PREFIX = "atelier-"
OWNER = "owner"
"""The file in a session's folder that says which process it belongs to."""


def clear(session: Path) -> None:
    """End every process that was started for a session, and remove its folder.

    HAProxy outlives the actor that started it when that actor is killed.
    """
    end_processes(session)
    shutil.rmtree(session, ignore_errors=True)


def end_processes(session: Path) -> None:
    """End every process that was started for a session, but this one."""
    for process in _processes_of(session):
        try:
            os.kill(process, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended, or only names the folder
            continue


def claim(session: Path) -> None:
    """Note that a session belongs to this process."""
    (session / OWNER).write_text(this_process(), encoding="utf-8")


def clear_dead(parent: Path) -> None:
    """Clear every session in a folder whose server has died without clearing it itself.

    HAProxy lives on after a server that was killed, and holds its port. Another server may listen
    there beside it, and the system would go on giving the dead one its share of the connections.
    """
    for session in parent.glob(f"{SESSION_PREFIX}*"):
        try:
            ours = session.lstat().st_uid == os.geteuid() and not session.is_symlink()
            owner = (session / OWNER).read_text(encoding="utf-8") if ours else ""
        except OSError:
            continue
        if has_died(owner):
            clear(session)


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
