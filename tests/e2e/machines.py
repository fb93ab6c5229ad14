"""Machines within this one: each has a network address, processes and a folder of its own.

They are Linux namespaces, which take root to make. Every file but those below `Machine.own` is
shared, as if it lay on a disk that all of them mount.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from tests.e2e.processes import Process, tree

NETWORKS = [f"198.18.{number}" for number in range(256)]
"""Set apart for measurements (RFC 2544): no machine that anybody wants to reach has one."""
ISOLATED = ("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")
START = 'mount -t tmpfs own "$0" && exec "$@"'


class Machine:
    """Where one command runs, with all that it starts; see `Network.machine`."""

    def __init__(self, namespace: str, address: str, own: Path) -> None:
        self.address, self.own = address, own
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start the command; one that ran there before has ended."""
        with log.open("wb") as lines:
            self._process = subprocess.Popen(
                [*self._entered, *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def tried(self) -> None:
        """Run nothing there, once.

        Raises:
            CalledProcessError: not even that is possible.
        """
        subprocess.run([*self._entered, "true"], check=True, capture_output=True, text=True)

    @property
    def _entered(self) -> list[str]:
        inside = ["ip", "netns", "exec", self._namespace, *ISOLATED]
        return [*inside, "sh", "-c", START, str(self.own)]

    @property
    def runs(self) -> bool:
        """Whether the command does."""
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[Process]:
        """All that run on it."""
        return [] if self._process is None else tree(self._process.pid)

    def replicas(self, deployment: str) -> list[Process]:
        """The processes of a deployment's replicas on it."""
        wanted = f"ServeReplica:atelier:{deployment}"
        return [process for process in self.processes() if wanted in process.title]

    def lose(self) -> None:
        """End everything on it at once, as a loss of power does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Network:
    """Machines that reach one another and are reached from here."""

    def __init__(self, folder: Path) -> None:
        """Make it, with no machine yet.

        Args:
            folder: of the test's own, with a short name: sockets lie below it.
        """
        self._name = f"at{os.getpid()}"
        taken = _ip("-o", "address")
        self._subnet = random.choice([net for net in NETWORKS if f" {net}." not in taken])
        self._numbers = count(1)
        self._own = folder / "own"
        self._own.mkdir()
        self._namespaces: list[str] = []
        self._machines: list[Machine] = []
        self.here = f"{self._subnet}.{next(self._numbers)}"
        """This machine's address in it."""
        _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "add", f"{self.here}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def machine(self) -> Machine:
        """One more, on which nothing runs yet."""
        number = next(self._numbers)
        name, cable = f"{self._name}-{number}", f"{self._name}v{number}"
        address = f"{self._subnet}.{number}"
        _ip("netns", "add", name)
        self._namespaces.append(name)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", cable, "master", self._name, "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        self._machines.append(Machine(name, address, self._own))
        return self._machines[-1]

    def close(self) -> None:
        """End all of it."""
        for machine in self._machines:
            machine.lose()
        for name in self._namespaces:
            _ip("netns", "delete", name)
        _ip("link", "delete", self._name)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout  # noqa: S607 - wherever it is


def lacking() -> str:
    """Why there can be no such machines here, by trying to make one; empty where there can."""
    if absent := [name for name in ("ip", "unshare") if shutil.which(name) is None]:
        return f"there is no command {absent[0]}"
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
        try:
            network = Network(Path(folder))
            try:
                network.machine().tried()
            finally:
                network.close()
        except subprocess.CalledProcessError as error:
            return f"machines of namespaces cannot be made here: {error.stderr.strip()}"
    return ""
