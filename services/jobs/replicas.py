"""Which process a replica is, so that another on the same machine can see at once that it died."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_PROC = Path("/proc")
_START_FIELD = 19
"""Of /proc/PID/stat, counted after the command's name, which may hold spaces."""


def new_replica_id() -> str:
    """A name that no other replica has or had."""
    return secrets.token_hex(16)


def this_process() -> str:
    """The machine, since its start, its space of process ids, the process, and when it began.

    Empty where the system does not tell.
    """
    try:
        return f"{_machine()} {os.getpid()} {_start_of(os.getpid())}"
    except OSError:
        return ""


def has_died(process: str) -> bool:
    """Whether a process that `this_process` named is known to have ended.

    Of another machine, or another space of process ids, nothing is known.
    """
    try:
        machine, pid, start = process.rsplit(" ", 2)
        if machine != _machine():
            return False
    except (OSError, ValueError):
        return False
    try:
        return _start_of(int(pid)) != start
    except OSError:
        return True


def _machine() -> str:
    boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"


def _start_of(pid: int) -> str:
    text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return fields[_START_FIELD]
