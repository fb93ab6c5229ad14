"""A peer: MLServer's adaptive batching over the same onnxruntime networks.

Runs in an environment of its own; see `loadtests.peers.environment`. It speaks KServe v2: a request
is a tensor of one element, the JSON of its fields, and so is its answer, a PNG file in base64.
"""

from __future__ import annotations

import base64
import json

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from loadtests.peers.work import open_work


class BatchedPipeline(MLModel):
    """One worker, to which the server sends what has come together."""

    async def load(self) -> bool:
        """Open the model."""
        self._work = open_work()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A batch of images: MLServer has joined the tensors, and will take the answer apart."""
        fields = [json.loads(one) for one in StringCodec.decode_input(payload.inputs[0])]
        images = [base64.b64encode(one).decode("ascii") for one in self._work.generate(fields)]
        made = ResponseOutput(name="images", shape=[len(images), 1], datatype="BYTES", data=images)
        return InferenceResponse(model_name=self.name, outputs=[made])
