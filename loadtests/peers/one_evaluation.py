"""A small model of one network evaluation, as somebody serves it who has the exported graph.

No engine, no torch: onnxruntime and numpy, and for the file the same encoder as the service's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.store import CATALOG
from services.core import images as codec
from services.core.job import Encoding

DECODERS = ("generator", "decoder", "inverse")
"""What makes an image of a latent, in a GAN, a VAE and a flow."""


class OneEvaluation:
    """Latents of the requests' seeds, one evaluation, PNG files.

    Args:
        model: of the catalog.
        threads: of one evaluation.
    """

    def __init__(self, model: str, *, threads: int | None = None) -> None:
        folder = CATALOG / model
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        name = next(name for name in DECODERS if name in manifest["networks"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            folder / manifest["networks"][name]["onnx"]["file"],
            options,
            providers=["CPUExecutionProvider"],
        )
        inputs = {given.name: given.shape[1:] for given in self._session.get_inputs()}
        self._shape = inputs["z"]
        self._labels = manifest["options"].get("labels") if "label" in inputs else None
        self._low, self._high = manifest["pixel_range"]

    def generate(self, requests: Sequence[dict[str, Any]]) -> list[bytes]:
        """PNG files, one for each request: of a seed, and a label where the model takes any."""
        drawn = [
            np.random.default_rng(one["seed"]).standard_normal(self._shape) for one in requests
        ]
        given: dict[str, Any] = {"z": np.stack(drawn).astype(np.float32)}
        if self._labels is not None:
            given["label"] = np.array([self._labels.index(one["label"]) for one in requests])
        (made,) = self._session.run(None, given)
        return [codec.encode(image, Encoding()) for image in self._pixels(made)]

    def _pixels(self, made: NDArray[np.float32]) -> NDArray[np.uint8]:
        unit = (made - self._low) / (self._high - self._low)
        pixels: NDArray[np.uint8] = (unit * 255).round().clip(0, 255).astype(np.uint8)
        return pixels
