"""A full queue refuses at once while work goes on; so does a deadline that cannot be met."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any

import httpx
import pytest

from tests.e2e.asks import png
from tests.e2e.running import Server, until

REFUSAL_SECONDS = 0.1
MEASUREMENTS = 15
ROUNDS = 5
"""Others may keep the machine busy for a while; a service that is slow is slow in every round."""

EVALUATIONS = "atelier_network_evaluations_total"
ENDLESS = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 1000, "n": 64}
"""More than a queue of 30 s takes, on any machine; an empty queue takes a single one."""
SMALL = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 10}


@contextmanager
def full_queue(server: Server) -> Iterator[None]:
    """Hold the queue full with one endless request, and let go of it."""

    def hold() -> None:
        try:
            client.post("/v1/generate", json=ENDLESS)
        except httpx.TransportError:
            pass

    client = httpx.Client(base_url=server.url, timeout=300)
    holding = threading.Thread(target=hold, daemon=True)
    holding.start()
    try:
        until(lambda: server.trajectories() >= ENDLESS["n"], "the queue is full")
        yield
    finally:
        for connection in client._transport._pool.connections:  # noqa: SLF001
            connection._connection._network_stream.get_extra_info("socket").shutdown(2)  # noqa: SLF001
        holding.join(20)
        client.close()
        until(lambda: server.trajectories() == 0, "the queue is empty")
