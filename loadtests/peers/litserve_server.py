"""A peer: LitServe's dynamic batching over the same onnxruntime networks.

Runs in an environment of its own; see `loadtests.peers.environment`. Annotations here are read by
LitServe as they stand, so they are not put off by a ``__future__`` import.
"""

import sys
from typing import Any

import litserve
from fastapi import Request, Response

from loadtests.peers.work import batching, open_work


class BatchedPipeline(litserve.LitAPI):
    """One worker, which takes what has come together."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Called once in the worker."""
        self._work = open_work()

    def decode_request(self, request: Request) -> dict[str, Any]:
        """LitServe has read the JSON body, which it gives to what asks for a request."""
        return dict(request)

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As they come."""
        return list(inputs)

    def predict(self, x: list[dict[str, Any]]) -> list[bytes]:
        """A batch of images."""
        return self._work.generate(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """One each."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """PNG bytes."""
        return Response(output, media_type="image/png")


def main() -> None:
    """Serve on the port that is named."""
    most, wait = batching()
    api = BatchedPipeline(max_batch_size=most, batch_timeout=wait, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, timeout=False)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)


if __name__ == "__main__":
    main()
