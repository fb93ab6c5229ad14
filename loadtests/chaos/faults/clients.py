"""Clients that dawdle and clients that lie."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

import httpx

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.fault import Fault
from loadtests.chaos.stage import Stage
from loadtests.slow_clients import dawdlers

COUNT = 8
STREAM = {"model": "digits-ddpm", "steps": 20, "n": 4, "response": "stream"}
BODY = json.dumps({"model": "digits-realnvp", "seed": 1}).encode()
GOOD = b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
READ_SECONDS = 10.0

LIES: tuple[bytes, ...] = (
    GOOD + b"content-length: 10\r\n\r\n" + BODY,
    GOOD + b"content-length: 10\r\ncontent-length: 99\r\n\r\n" + BODY,
    GOOD + b"content-length: -1\r\n\r\n",
    GOOD + b"content-length: 99999999999999\r\n\r\n" + BODY,
    GOOD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\n" + BODY,
    GOOD + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + BODY,
    GOOD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    GOOD + b"content-length: 6\r\n\r\n\xff\xfe\x00\x01\x02\x03",
    GOOD.replace(b"HTTP/1.1", b"HTTP/9.9") + b"\r\n",
    GOOD.replace(b"application/json", b"multipart/form-data; boundary=b")
    + b"content-length: 9\r\n\r\n--b\r\n--b--",
    b"GET /%00/..%2f..%2fetc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /v1/generate HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 500 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
"""Lengths that are wrong or contradict one another, chunks that are none, types that are not what
they say, a path out of the tree, too many fields, TLS where there is none."""


class SlowClients(Fault):
    """Connections that are held open cost the others nothing."""

    name = "slow-clients"
    about = f"{3 * COUNT} clients send byte by byte, read nothing, or hang up, for 15 s"
    seconds = 15.0
    bounds = Bounds(failed_share=0.0)

    def __init__(self) -> None:
        """Nothing is open yet."""
        self._open = ExitStack()

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        self._open.enter_context(dawdlers(stage.url, COUNT, STREAM))

    def heal(self, stage: Stage) -> None:  # noqa: ARG002 - of the class above
        """See `Fault.heal`."""
        self._open.close()


class LyingClients(Fault):
    """Whoever lies is told so, and nothing of the service fails by it."""

    name = "lying-clients"
    about = f"{COUNT} clients send requests whose lengths, encodings and paths are lies, for 15 s"
    seconds = 15.0
    bounds = Bounds(failed_share=0.0)

    def __init__(self) -> None:
        """Nobody lies yet."""
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self._faults: set[str] = set()

    def inject(self, stage: Stage) -> None:
        """See `Fault.inject`."""
        url = httpx.URL(stage.url)
        work: Callable[[int], None] = lambda first: self._lie(url.host, url.port or 80, first)  # noqa: E731 - with its type
        self._threads = [
            threading.Thread(target=work, args=(i,), daemon=True) for i in range(COUNT)
        ]
        for thread in self._threads:
            thread.start()

    def heal(self, stage: Stage) -> None:  # noqa: ARG002 - of the class above
        """See `Fault.heal`."""
        self._done.set()
        for thread in self._threads:
            thread.join(2 * READ_SECONDS)

    def found(self) -> list[str]:
        """See `Fault.found`."""
        return sorted(self._faults)

    def _lie(self, host: str, port: int, first: int) -> None:
        number = first
        while not self._done.wait(0.1):
            lie = LIES[number % len(LIES)]
            number += 1
            said = b""
            with suppress(OSError), socket.create_connection((host, port), READ_SECONDS) as line:
                line.sendall(lie)
                line.shutdown(socket.SHUT_WR)
                said = line.recv(4096)
            if said.startswith(b"HTTP/1.1 5"):
                answer = said.splitlines()[0].decode("ascii", "replace")
                self._faults.add(f"a lie was answered by {answer!r}: {lie[:160]!r}")
