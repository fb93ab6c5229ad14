"""A real server as a process of its own, started as a user starts it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import Process, mentioning, tree

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 240.0
"""A server that is alone on two cores is ready in half a minute; here it starts beside others."""
STOP_SECONDS = 60.0
REQUEST_SECONDS = 240.0
LAST_LINES = 40


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(
    condition: Callable[[], Any], what: str, seconds: float = 20.0, pause: float = 0.02
) -> Any:
    """What a condition gives once it holds; fails when that takes too long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
    return found


def _hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background, which ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Server:
    """A server of its own: port, temporary folder, user store.

    Its temporary folder is nobody else's and stands in its environment, so whatever it started or
    wrote can be told apart from what others did.
    """

    def __init__(
        self,
        command: list[str],
        *,
        port: int,
        environment: Mapping[str, str] | None = None,
        expect: str = "/readyz",
        ready_seconds: float = READY_SECONDS,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # Directly below the system's: the names of sockets are limited in length.
        self.folder = Path(tempfile.mkdtemp(prefix="e2e-"))
        self._log = self.folder.with_suffix(".log").open("w+", encoding="utf-8", errors="replace")
        own = {"TMPDIR": str(self.folder), "ATELIER_KEY_FILE": str(self.folder / "keys.json")}
        own |= environment or {}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ATELIER_", "RAY_"))}
        started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=kept | own,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hear_interrupts,  # noqa: PLW1509 - it only sets a signal
        )
        self._members: dict[int, Process] = {}
        try:
            until(lambda: self._answers(expect), "the server is ready", ready_seconds)
        except BaseException as error:
            said = self.said()
            self.destroy()
            raise RuntimeError(f"the server did not start; it said:\n{said}") from error
        self.ready_seconds = time.monotonic() - started

    def _answers(self, path: str) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with code {self.process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + path, timeout=5.0).is_success
        return False

    def said(self) -> str:
        """The last lines that it printed."""
        self._log.seek(0)
        return "".join(self._log.readlines()[-LAST_LINES:])

    def client(self, **options: Any) -> httpx.Client:
        """A client with a connection of its own."""
        return httpx.Client(base_url=self.url, timeout=REQUEST_SECONDS, **options)

    def get(self, path: str) -> Any:
        """The JSON of a page."""
        return httpx.get(self.url + path, timeout=REQUEST_SECONDS).raise_for_status().json()

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """One request on a new connection."""
        return httpx.post(self.url + path, json=body, timeout=REQUEST_SECONDS, **options)

    def begin(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPConnection:
        """Send a request on a new connection and do not wait for the answer."""
        port = httpx.URL(self.url).port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS)
        sent = {"content-type": "application/json", **(headers or {})}
        connection.request("POST", path, json.dumps(body), sent)
        return connection

    def models(self) -> dict[str, dict[str, Any]]:
        """What ``/v1/models`` lists, by name."""
        return {model["id"]: model for model in self.get("/v1/models")["data"]}

    def trajectories(self) -> int:
        """Rows in flight, over all pools."""
        return sum(pool["trajectories"] for pool in self.get("/v1/status")["pools"])

    def ready(self) -> bool:
        """Whether it would take work now; false while nobody answers."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=5.0).is_success
        return False

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of ``/metrics`` by name and labels."""
        page = httpx.get(f"{self.url}/metrics", timeout=REQUEST_SECONDS).raise_for_status().text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of a series over all labels that are not given."""
        wanted = set(labels.items())
        found = self.samples().items()
        return sum(value for (n, has), value in found if n == name and wanted <= has)

    def processes(self) -> list[Process]:
        """Itself and all that it has started."""
        found = tree(self.process.pid)
        self._members |= {process.id: process for process in found}
        return found

    def replica(self, deployment: str) -> Process | None:
        """The process of a deployment's replica."""
        title = f"ray::ServeReplica:atelier:{deployment}"
        found = [process for process in self.processes() if process.title.startswith(title)]
        return found[0] if found else None

    def tell_to_stop(self) -> None:
        """As an operator does."""
        self.processes()
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(STOP_SECONDS)

    def left_behind(self) -> list[str]:
        """Processes and files of a server that has ended."""
        known = {p for p in self._members.values() if p.alive}
        others = {p for p in mentioning(str(self.folder)) if p.alive}
        running = [f"{p.id} {p.title[:120]}" for p in known | others]
        return running + [str(path) for path in self.folder.glob("atelier-*")]

    def stop(self) -> None:
        """Tell it to stop, if it still runs.

        Raises:
            RuntimeError: it did not end well, or left something behind.
        """
        if self.process.poll() is None:
            self.tell_to_stop()
        try:
            code = self.wait()
            left = self.left_behind()
            if code or left:
                raise RuntimeError(f"ended with {code}, left {left}; it said:\n{self.said()}")
        finally:
            self.destroy()

    def destroy(self) -> None:
        """End whatever is left of it."""
        for process in {*self.processes(), *self._members.values(), *mentioning(str(self.folder))}:
            with contextlib.suppress(ProcessLookupError):
                if process.alive:
                    process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._log.close()
        self.folder.with_suffix(".log").unlink(missing_ok=True)


def atelier_serve(
    config: Path, store: Path, environment: Mapping[str, str] | None = None
) -> Server:
    """``atelier serve`` on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "services.cli", "serve", "--config", str(config)]
    command += ["--port", str(port), "--store", str(store)]
    return Server(command, port=port, environment=environment)


class Servers:
    """At most one server at a time, kept as long as tests want the same one."""

    def __init__(self, start: Mapping[str, Callable[[], Server]]) -> None:
        self._start = start
        self._name = ""
        self._server: Server | None = None

    def running(self, name: str) -> Server:
        """The server of that name; another one is stopped for it."""
        if self._server is not None and self._name == name and self._server.process.poll() is None:
            return self._server
        self.close()
        self._name, self._server = name, self._start[name]()
        return self._server

    def close(self) -> None:
        """Stop the one that runs; raises where it does not end well."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
