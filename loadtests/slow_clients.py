"""What clients that dawdle cost: the others' 99th percentile over that beside prompt clients.

``python -m loadtests.slow_clients``: some clients ask one after the other, first alone, then beside
many that ask for streams and read them at once, and then beside many that send their body byte by
byte, do not read the same streams, or hang up halfway. The three are measured in turns, so that
what else the machine does falls on each.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx

from loadtests import hardware
from loadtests.service import ROOT, serving

ASK = {"model": "shapes-cgan", "label": "star", "seed": 1}
STREAM = {"model": "shapes-ldm", "prompt": "a star", "steps": 2, "n": 4, "response": "stream"}


def latencies(address: str, count: int, clients: int) -> list[float]:
    """Seconds of each of so many requests per client."""
    found: list[float] = []

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=120) as client:
            for _ in range(count):
                started = time.perf_counter()
                client.post("/v1/generate", json=ASK).raise_for_status()
                found.append(time.perf_counter() - started)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@contextmanager
def crowd(kinds: Sequence[Callable[[], None]], count: int, done: threading.Event) -> Iterator[None]:
    """So many threads of each kind, which end once ``done`` is set."""
    threads = [threading.Thread(target=k, daemon=True) for k in kinds for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(timeout=30)


@contextmanager
def dawdlers(address: str, count: int, stream: Mapping[str, Any] = STREAM) -> Iterator[None]:
    """So many of each kind: slow senders, readers that do not read, clients that hang up.

    Args:
        address: of the server.
        count: of each kind.
        stream: the request that they all send, and whose answer is a stream.
    """
    url, done = httpx.URL(address), threading.Event()
    body = json.dumps(stream).encode()
    head = (
        "POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()

    def send_slowly() -> None:
        while not done.is_set():
            with suppress(OSError), socket.create_connection((url.host, url.port)) as line:
                line.sendall(head)
                for byte in body[:-1]:
                    if done.wait(0.25):
                        return
                    line.sendall(bytes([byte]))

    def read_nothing() -> None:
        while not done.is_set():
            with suppress(OSError), socket.socket() as line:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                line.connect((url.host, url.port))
                line.sendall(head + body)
                done.wait(20.0)

    def hang_up() -> None:
        while not done.wait(0.25):
            with suppress(OSError), socket.create_connection((url.host, url.port)) as line:
                line.sendall(head + body[: len(body) // 2])

    with crowd((send_slowly, read_nothing, hang_up), count, done):
        yield


@contextmanager
def prompt_readers(address: str, count: int, stream: Mapping[str, Any] = STREAM) -> Iterator[None]:
    """As many clients as there are readers that do not read, asking the same; these read at once.

    What the dawdlers' images cost the others is no fault of dawdling: these cost it too.
    """
    done = threading.Event()

    def read_all() -> None:
        with httpx.Client(base_url=address, timeout=120) as client:
            while not done.is_set():
                client.post("/v1/generate", json=dict(stream)).raise_for_status()
                done.wait(20.0)

    with crowd((read_all,), count, done):
        yield


def percentile(values: list[float], share: int) -> float:
    """The ``share``-th percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--dawdlers", type=int, default=20, help="of each of the three kinds")
    parser.add_argument("--config", type=Path, default=ROOT / "deploy" / "serve.yaml")
    parser.add_argument("--url", help="of a server that runs; else one is started")
    options = parser.parse_args()
    alone: list[float] = []
    beside: list[float] = []
    prompt: list[float] = []
    own = nullcontext(options.url.rstrip("/")) if options.url else serving(options.config)
    with own as address:
        latencies(address, options.requests, options.clients)
        for _ in range(options.rounds):
            alone += latencies(address, options.requests, options.clients)
            with prompt_readers(address, options.dawdlers):
                prompt += latencies(address, options.requests, options.clients)
            with dawdlers(address, options.dawdlers):
                beside += latencies(address, options.requests, options.clients)
    shares = (50, 95, 99)
    result = {
        "hardware": hardware.describe(),
        "requests": len(alone),
        "dawdlers": 3 * options.dawdlers,
        "alone": {f"p{s}": percentile(alone, s) for s in shares},
        "beside_prompt_readers": {f"p{s}": percentile(prompt, s) for s in shares},
        "beside": {f"p{s}": percentile(beside, s) for s in shares},
        "ratio": {f"p{s}": percentile(beside, s) / percentile(prompt, s) for s in shares},
    }
    hardware.keep("slow_clients", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
