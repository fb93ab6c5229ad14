"""A peer: BentoML's adaptive batching over the same onnxruntime networks.

Runs in an environment of its own; see `loadtests.peers.environment`.
"""

from __future__ import annotations

import base64
from typing import Any

import bentoml

from loadtests.peers.work import batching, open_work

MAX_LATENCY_MS = 300_000
"""BentoML refuses what it predicts to take longer; everybody else answers late instead."""


@bentoml.service(workers=1, traffic={"timeout": 300, "max_concurrency": 4096})
class BatchedPipeline:
    """One worker; how long it waits for company is BentoML's to learn."""

    def __init__(self) -> None:
        """Open the model."""
        self._work = open_work()

    @bentoml.api(
        route="/generate",
        batchable=True,
        max_batch_size=batching().most,
        max_latency_ms=MAX_LATENCY_MS,
    )
    def generate(self, requests: list[dict[str, Any]]) -> list[str]:
        """PNG files in base64; a caller sends a list of one."""
        images = self._work.generate(requests)
        return [base64.b64encode(image).decode("ascii") for image in images]
