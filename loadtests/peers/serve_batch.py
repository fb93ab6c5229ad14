"""A peer: ``@serve.batch`` over the same onnxruntime networks."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from loadtests.peers.work import batching, open_work


@serve.deployment(max_ongoing_requests=4096)
class BatchedPipeline:
    """See `loadtests.peers.work`."""

    def __init__(self) -> None:
        """Open the same model that Atelier serves."""
        self._work = open_work()

    @serve.batch(max_batch_size=batching().most, batch_wait_timeout_s=batching().wait_seconds)
    async def generate(self, requests: list[dict[str, Any]]) -> list[bytes]:
        """Run a batch from noise to images."""
        return self._work.generate(requests)

    async def __call__(self, request: Request) -> Response:
        """``GET /readyz``, or one image for a JSON body."""
        if request.method == "GET":
            return JSONResponse({"status": "ready"})
        return Response(await self.generate(await request.json()), media_type="image/png")


def build(args: dict[str, Any]) -> Application:  # noqa: ARG001 - Serve's builder signature
    """Called by Ray Serve."""
    return BatchedPipeline.bind()
