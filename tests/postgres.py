"""A PostgreSQL of a test's own, from the system's binaries."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
LOOPBACK = "127.0.0.1"
USER = "postgres"
"""Whom the server runs as where the tests run as root, which it refuses to."""


def binaries() -> Path | None:
    """Where ``initdb`` and ``pg_ctl`` are; ``None`` where there are none."""
    found = shutil.which("initdb")
    folders = [*FOLDERS, *([] if found is None else [Path(found).resolve().parent])]
    return next((f for f in folders if (f / "initdb").exists() and (f / "pg_ctl").exists()), None)


class Postgres:
    """A server in a folder of its own, on a port of its own."""

    def __init__(self, address: str = LOOPBACK) -> None:
        """Start it.

        Args:
            address: of this machine, where it listens; whoever shares the address's first three
                numbers is let in.

        Raises:
            FileNotFoundError: no PostgreSQL is installed.
        """
        found = binaries()
        if found is None:
            raise FileNotFoundError("no PostgreSQL is installed")
        self._binaries = found
        self._root = Path(tempfile.mkdtemp(prefix="atelier-pg-"))
        self._data = self._root / "data"
        if os.geteuid() == 0:
            entry = pwd.getpwnam(USER)
            os.chown(self._root, entry.pw_uid, entry.pw_gid)
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        with (self._data / "pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.write(f"host all all {address}/24 trust\n")
        self._address = address
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port = probe.getsockname()[1]
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Of a database, which must be there."""
        return f"postgresql://{USER}@{self._address}:{self.port}/{database}"

    def make(self, database: str) -> str:
        """A new database, by its URL."""
        self.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def execute(self, statement: str) -> None:
        """Run one statement as the server's own user."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def terminate_connections(self) -> None:
        """End every other session, as an operator or a failover would."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -k {self._root} -c listen_addresses={self._address} -c fsync=off"
        log = self._root / "log"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", 60, "-l", log, "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; ``immediate`` is as good as killing it."""
        self._run("pg_ctl", "-D", self._data, "-w", "-t", 60, "-m", mode, "stop")

    def close(self) -> None:
        """Stop it and remove everything."""
        self.stop("immediate")
        shutil.rmtree(self._root, ignore_errors=True)

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(self._binaries / name), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", USER, "--", *command]
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stdout}")
