"""The service on a Ray cluster of several machines, as deploy/README.md has one made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.e2e.machines import Machine, Network
from tests.e2e.running import ROOT, until
from tests.postgres import Postgres

READY_SECONDS = 900.0
"""A cluster that is alone on two cores is ready in a minute; here it starts beside others."""
REQUEST_SECONDS = 240.0
LAST_CHARACTERS = 2000
EVERYWHERE = "0.0.0.0"  # noqa: S104 - in a network that this machine alone has
STORE_BYTES = 100 << 20
NODES, CORES = 2, 3
"""Of the config's two gateways and two engines, a node has room for one each."""
STARTED = "Ray runtime started"
CONTROL, DASHBOARD, SERVICE, METRICS = 6379, 8265, 8000, 9464


class Cluster:
    """A head that holds no replica, and nodes that hold one of the gateway and one of the engines.

    Keys, jobs and the files of jobs are where all nodes reach them; everything else that a node
    writes is its own.
    """

    def __init__(self) -> None:
        """Start it, and wait until every node answers requests.

        Raises:
            RuntimeError: it is not ready in time.
        """
        self._key, self._token = secrets.token_hex(16), secrets.token_hex(16)
        self.nodes: list[Machine] = []
        self._up: list[Machine] = []
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self.folder = Path(tempfile.mkdtemp(prefix="nodes-"))
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._network = Network(self.folder)
            undo.callback(self._network.close)
            self._postgres = Postgres(self._network.here)
            undo.callback(self._postgres.close)
            self.head = self._network.machine()
            self._start(self.head, "--head", "--dashboard-host", EVERYWHERE, cores=0)
            for _ in range(NODES):
                self.add()
            self._until(lambda: _listens(self.head, DASHBOARD), "the dashboard is up")
            self._until(self._deploy, "the config is deployed")
            self.wait()
            self._undo = undo.pop_all()

    def wait(self) -> None:
        """Until every node answers requests.

        Raises:
            RuntimeError: one does not in time.
        """
        self._until(lambda: all(map(self.ready, self.nodes)), "every node answers")

    def add(self) -> Machine:
        """One more node, which does not answer requests yet."""
        node = self._network.machine()
        self._start(node, "--address", f"{self.head.address}:{CONTROL}", cores=CORES)
        self.nodes.append(node)
        return node

    def forget(self, node: Machine) -> None:
        """Count a node no more that is lost."""
        self.nodes.remove(node)
        self._up.remove(node)

    def client(self, node: Machine) -> httpx.Client:
        """Asks the service at a node's address."""
        return httpx.Client(
            base_url=f"http://{node.address}:{SERVICE}",
            headers={"authorization": f"Bearer {self._key}"},
            timeout=REQUEST_SECONDS,
        )

    def ready(self, node: Machine) -> bool:
        """Whether it has a replica of both, and would take work at its address."""
        here = node.replicas("gateway") and node.replicas("engines")
        with contextlib.suppress(httpx.TransportError):
            url = f"http://{node.address}:{SERVICE}/readyz"
            return bool(here) and httpx.get(url, timeout=10.0).is_success
        return False

    def evaluations(self, node: Machine) -> float:
        """Network evaluations that were made on a node, as its own page of series counts them."""
        url = f"http://{node.address}:{METRICS}/metrics"
        lines = httpx.get(url, timeout=REQUEST_SECONDS).raise_for_status().text.splitlines()
        series = "atelier_network_evaluations_total{"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    def close(self) -> None:
        """End all of it and remove what it wrote."""
        self._undo.close()

    def _start(self, machine: Machine, *arguments: str, cores: int) -> None:
        """Start Ray there; again where it gives itself up, which it does after half a minute."""
        own = str(machine.own)
        ray = str(Path(sys.executable).with_name("ray"))
        command = [sys.executable, "-m", "services.serving.cluster_node", "--state", f"{own}/s"]
        command += ["--", ray, "start", "--block", "--temp-dir", f"{own}/ray"]
        command += ["--node-ip-address", machine.address, "--num-cpus", str(cores)]
        command += ["--object-store-memory", str(STORE_BYTES), *arguments]
        log = self.folder / f"{machine.address}.log"

        def started() -> bool:
            if not machine.runs:
                machine.run(command, self._environment(own), log)
            return STARTED in log.read_text(errors="replace")

        self._until(started, f"Ray runs at {machine.address}")
        self._up.append(machine)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            ended = [machine.address for machine in self._up if not machine.runs]
            if ended:
                raise TimeoutError(f"{what}: Ray has ended at {', '.join(ended)}")
            return condition()

        try:
            until(holds, what, READY_SECONDS, pause=0.5)
        except TimeoutError as error:
            logs = self.folder.glob("*.log")
            said = "\n".join(path.read_text(errors="replace")[-LAST_CHARACTERS:] for path in logs)
            raise RuntimeError(f"{error}; the machines said:\n{said}") from error

    def _environment(self, own: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ATELIER_", "RAY_"))}
        return kept | {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": own,
            "RAY_AUTH_TOKEN": self._token,
            "ATELIER_API_KEYS": json.dumps([hashlib.sha256(self._key.encode()).hexdigest()]),
            "ATELIER_KEY_FILE": f"{own}/keys.json",
            "ATELIER_JOBS__DATABASE_URL": self._postgres.url(),
            "ATELIER_JOBS__ARTEFACTS_URL": str(self.folder / "jobs"),
        }

    def _deploy(self) -> bool:
        """As ``serve deploy`` and KubeRay do; whether the dashboard, which is just up, took it."""
        url = f"http://{self.head.address}:{DASHBOARD}/api/serve/applications/"
        token = {"authorization": f"Bearer {self._token}"}
        config = _config(self.folder, str(self.head.own / "s" / "metrics"))
        with contextlib.suppress(httpx.TransportError):
            return httpx.put(url, json=config, headers=token, timeout=60.0).is_success
        return False


def _config(folder: Path, metrics_folder: str) -> dict[str, Any]:
    """The config that is written for several machines, with the folders of these."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "several-nodes.yaml").read_text())
    arguments = config["applications"][0]["args"]
    (pool,) = arguments["pools"]
    pool["threads"] = 1  # the machines share their cores
    arguments |= {"store": str(folder / "store"), "metrics_folder": metrics_folder}
    return config


def _listens(machine: Machine, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((machine.address, port), 5.0):
        return True
    return False
