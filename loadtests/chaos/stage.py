"""The service that faults are tried on: started as a user starts it, in one of two shapes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from services.serving.environment import free_ports
from tests.e2e.processes import Process, mentioning
from tests.e2e.running import Server
from tests.postgres import Postgres, binaries

ROOT = Path(__file__).resolve().parents[2]
MODELS = ["digits-realnvp", "shapes-cgan", "digits-ddpm"]
READY_SECONDS = 1800.0
"""A server that is alone on two cores is ready in half a minute; a start is no promise here."""
STATE = "state"
"""The folder of keys, jobs and their files, within the stage's."""
ENGINES = "engines"
"""The pool's name where it is apart."""

Shape = Literal["embedded", "several"]
"""``embedded``: one process holds gateway, engines and SQLite, as `atelier serve` does by default.
``several``: two gateways, engines apart, PostgreSQL, as a cluster has them."""


class Prop(Protocol):
    """What a stage must have for a fault to be possible."""

    def prepare(self, folder: Path) -> Mapping[str, str]:
        """Make the stage's folder ready; what its environment needs."""
        ...

    def clean(self, folder: Path) -> None:
        """Undo it."""
        ...


class Stage:
    """A server whose state outlives it, and the database beside it."""

    def __init__(self, shape: Shape, props: Sequence[Prop] = ()) -> None:
        """Start it.

        Args:
            shape: of the deployment.
            props: what is to be made ready before, and cleared away afterwards.

        Raises:
            RuntimeError: it did not become ready.
        """
        self._props = props
        self.shape = shape
        # Directly below the system's: sockets' names are limited, and PostgreSQL's user enters.
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.state = self.folder / STATE
        self.state.mkdir()
        self.postgres = Postgres() if shape == "several" and binaries() else None
        self._port = free_ports(1)[0]
        self._variables: dict[str, str] = {}
        self._crashed: list[Server] = []
        self._config = self.folder / "serve.yaml"
        self._config.write_text(yaml.safe_dump(_config(shape)), encoding="utf-8")
        try:
            for prop in props:
                self._variables |= prop.prepare(self.folder)
            self.server = self._started()
        except BaseException:
            self._clear()
            raise

    @property
    def url(self) -> str:
        """Where it listens, also after a restart."""
        return self.server.url

    @property
    def engines(self) -> str:
        """The deployment whose replica holds the engines."""
        return ENGINES if self.shape == "several" else "gateway"

    def replica(self, deployment: str) -> Process:
        """The process of a deployment's replica.

        Raises:
            RuntimeError: there is none now.
        """
        found = self.server.replica(deployment)
        if found is None:
            raise RuntimeError(f"no replica of {deployment} runs now")
        return found

    def named(self, text: str) -> list[Process]:
        """The server's processes with a text in their command lines."""
        return [process for process in self.server.processes() if text in process.title]

    def start_again(self) -> None:
        """As a supervisor does once the process that it watches has ended.

        What that one had started and not cleared away is left for the new one to find.
        """
        self.server.process.wait()
        self._crashed.append(self.server)
        self.server = self._started()

    def close(self) -> None:
        """Stop the server and remove all that it wrote."""
        try:
            self.server.stop()
        finally:
            self._clear()

    def _clear(self) -> None:
        for crashed in self._crashed:
            crashed.destroy()
        for process in mentioning(str(self.folder)):
            with suppress(ProcessLookupError):
                process.kill()
        if self.postgres is not None:
            self.postgres.close()
        for prop in self._props:
            prop.clean(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _started(self) -> Server:
        command = [sys.executable, "-m", "services.cli", "serve"]
        command += ["--config", str(self._config), "--port", str(self._port)]
        command += ["--store", str(self.folder / "store")]
        # A server that is started again finds there what the one before it has left.
        variables = {"TMPDIR": str(self.folder), "ATELIER_KEY_FILE": str(self.state / "keys.json")}
        variables |= self._variables
        if self.postgres is not None:
            variables["ATELIER_JOBS__DATABASE_URL"] = self.postgres.url()
        return Server(command, port=self._port, environment=variables, ready_seconds=READY_SECONDS)


def _config(shape: Shape) -> dict[str, Any]:
    """The default config with few models, and where there are several processes, more of them."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    pool: dict[str, Any] = {
        "name": "default",
        "placement": "fused",
        "models": ["*"],
        "preload": MODELS,
    }
    arguments: dict[str, Any] = {"pools": [pool]}
    if shape == "several":
        pool |= {"name": ENGINES, "placement": "apart", "num_cpus": 0.5}
        arguments["gateway_replicas"] = 2
    config["applications"][0]["args"] = {"gateway": {}, **arguments}
    return config


def is_root() -> bool:
    """Whether this process may mount and such."""
    return os.geteuid() == 0
