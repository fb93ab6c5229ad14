"""Where the processes of a server listen, as /proc shows it."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.processes import PROC, Process

LISTENING = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def _sockets(process: Process) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in (PROC / str(process.id) / "fd").iterdir():
            with contextlib.suppress(OSError):
                match = _SOCKET.fullmatch(str(entry.readlink()))
                if match:
                    found.add(match.group(1))
    return found


def listening(processes: Iterable[Process]) -> set[int]:
    """The TCP ports on which any of the processes takes connections."""
    own = {inode for process in processes for inode in _sockets(process)}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTENING and words[9] in own:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


def other_address() -> str | None:
    """An address of this machine that is not the loopback's; none where it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def answers(address: str, port: int) -> bool:
    """Whether something takes a connection there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2.0):
        return True
    return False
