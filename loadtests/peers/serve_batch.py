"""A peer: ``@serve.batch`` over the same onnxruntime networks.

Request-level batching done well: rows of one batch may differ in steps, sampler and guidance, and a
row that is done stops costing. But a request waits for the batch before it to end, and its answer
for the slowest of its own.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.core import images as codec
from services.core.job import Call, Encoding, Task
from services.serving.local import local_backend

MODEL = "shapes-ldm"
MAX_BATCH = 8
WAIT_SECONDS = 0.01


@serve.deployment(max_ongoing_requests=4096)
class BatchedPipeline:
    """The engine's own mathematics, driven a whole batch at a time."""

    def __init__(self) -> None:
        """Open the same model that Atelier serves."""
        backend = local_backend()
        self._engine = backend.registry.load(MODEL).engine

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def generate(self, requests: list[dict[str, Any]]) -> list[bytes]:
        """Run a batch from noise to images."""
        jobs = [
            self._engine.jobs(Call("peer", MODEL, Task.GENERATE, request))[0]
            for request in requests
        ]
        flights = self._engine.prepare(jobs)
        while left := [flight for flight in flights if not flight.finished]:
            self._engine.step(left)
        results = self._engine.decode(flights)
        return [codec.encode(r.pixels, Encoding()) for r in results if r.pixels is not None]

    async def __call__(self, request: Request) -> Response:
        """``GET /readyz``, or one image for a JSON body."""
        if request.method == "GET":
            return JSONResponse({"status": "ready"})
        body = await request.json()
        body.pop("model", None)
        return Response(await self.generate(body), media_type="image/png")


def build(args: dict[str, Any]) -> Application:  # noqa: ARG001 - Serve's builder signature
    """Called by Ray Serve."""
    return BatchedPipeline.bind()
