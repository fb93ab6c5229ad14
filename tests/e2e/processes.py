"""The processes of one server, as /proc shows them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from os import kill
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process; its start distinguishes it from a later one of the same id."""

    id: int
    started: int

    @property
    def title(self) -> str:
        """Its command line, or what it has written over it."""
        return _read(PROC / str(self.id) / "cmdline").replace("\0", " ").strip()

    @property
    def alive(self) -> bool:
        """Whether it runs; one that has ended and was not yet asked how is not alive."""
        found = _stat(self.id)
        return found is not None and found.started == self.started and found.state not in "ZX"

    @property
    def memory(self) -> int:
        """Bytes that it holds; those shared with others count in part (PSS)."""
        found = re.search(r"^Pss:\s+(\d+) kB", _read(PROC / str(self.id) / "smaps_rollup"), re.M)
        return int(found.group(1)) * 1024 if found else 0

    def kill(self) -> None:
        """As ``kill -9``."""
        kill(self.id, signal.SIGKILL)


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    started: int


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _stat(process: int) -> _Stat | None:
    """Fields of ``/proc/PID/stat``, which stand behind the name in parentheses."""
    fields = _read(PROC / str(process) / "stat").rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[19])) if fields else None


def tree(root: int) -> list[Process]:
    """A process and all that it and its children have started."""
    stats = {int(path.name): _stat(int(path.name)) for path in PROC.glob("[0-9]*")}
    known = {number: stat for number, stat in stats.items() if stat is not None}

    def below(number: int) -> Iterator[int]:
        yield number
        for child, stat in known.items():
            if stat.parent == number:
                yield from below(child)

    return [Process(n, known[n].started) for n in below(root) if n in known]


def mentioning(text: str) -> list[Process]:
    """Processes with a text on their command line or in the environment they were started with."""
    found = []
    for path in PROC.glob("[0-9]*"):
        stat = _stat(int(path.name))
        if stat is not None and text in _read(path / "cmdline") + _read(path / "environ"):
            found.append(Process(int(path.name), stat.started))
    return found
