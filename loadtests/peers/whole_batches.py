"""Request-level batching over the service's own engine, for whatever server forms the batches.

Done well: rows of one batch may differ in steps, sampler and guidance, and a row that is done stops
costing. But a request waits for the batch before it to end, and its answer for the slowest of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtests.peers.work import DIFFUSION
from services.core import images as codec
from services.core.job import Call, Encoding, Task
from services.serving.local import local_backend


class WholeBatches:
    """The engine's own mathematics, driven a whole batch at a time."""

    def __init__(self) -> None:
        """Open the same model that Atelier serves."""
        self._engine = local_backend().registry.load(DIFFUSION).engine

    def generate(self, requests: Sequence[dict[str, Any]]) -> list[bytes]:
        """Run a batch from noise to images, as PNG."""
        bodies = [{k: v for k, v in request.items() if k != "model"} for request in requests]
        jobs = [
            self._engine.jobs(Call("peer", DIFFUSION, Task.GENERATE, body))[0] for body in bodies
        ]
        flights = self._engine.prepare(jobs)
        while left := [flight for flight in flights if not flight.finished]:
            self._engine.step(left)
        results = self._engine.decode(flights)
        return [codec.encode(r.pixels, Encoding()) for r in results if r.pixels is not None]
