"""What a graph's outputs tell of the images it makes, where no manifest does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.graph import GraphTensor
from model_store.networks.image_layout import Frame
from model_store.networks.signatures import SIGNATURES, Kind
from services.core.errors import InvalidNetwork

RANGE_ROWS = 16
_SLACK = 1e-5
_IMAGE_CHANNELS = (1, 3)


def guess_family(stem: str) -> str | None:
    """The family that a file's name speaks of, if it does."""
    words = {
        "gan": ("gan", "generator"),
        "vae": ("vae", "decoder"),
        "flow": ("flow", "nvp", "glow", "nice"),
    }
    name = stem.lower()
    return next((f for f, marks in words.items() if any(m in name for m in marks)), None)


def guess_frame(outputs: Sequence[GraphTensor]) -> Frame:
    """The image size that one of the outputs has.

    Raises:
        InvalidNetwork: none looks like images, or one may be so in two ways.
    """
    for output in outputs:
        frame = _frame(output.shape[1:])
        if frame is not None:
            return frame
    shown = "; ".join(str(output) for output in outputs)
    raise InvalidNetwork(
        f"no output looks like images of 1 or 3 channels: {shown}; write a manifest that says "
        "resolution and channels"
    )


def measure_range(network: ExportedNetwork) -> tuple[float, float]:
    """The pixel range that a network's images keep to, on random latents."""
    images = [n for n, spec in network.outputs.items() if len(spec.shape) == 3]
    values = network(**network.random_rows(RANGE_ROWS))
    pixels = torch.cat([values[name].flatten() for name in images])
    low, high = float(pixels.min()), float(pixels.max())
    if low >= -_SLACK and high <= 1 + _SLACK:
        return 0.0, 1.0
    if low >= -_SLACK and 2 < high <= 255 + _SLACK:
        return 0.0, 255.0
    return -1.0, 1.0


def image_network(family: str, names: Sequence[str]) -> str | None:
    """The network that turns latents into images, if the model has one."""
    for name in names:
        signature = SIGNATURES.get((family, name))
        if signature is None:
            continue
        needed = [port.kind for port in signature.outputs if port.required]
        makes = needed == [Kind.IMAGE]
        if makes and all(port.kind in (Kind.LATENT, Kind.LABEL) for port in signature.inputs):
            return name
    return None


def _frame(row: Sequence[int | None]) -> Frame | None:
    dims = [dim or 0 for dim in row]
    if len(dims) == 3 and dims[0] in _IMAGE_CHANNELS:
        return Frame(dims[0], dims[1], dims[2])
    if len(dims) == 3 and dims[2] in _IMAGE_CHANNELS:
        return Frame(dims[2], dims[0], dims[1])
    if len(dims) == 2 and min(dims) > 1:
        return Frame(1, dims[0], dims[1])
    side = math.isqrt(dims[0]) if len(dims) == 1 else 0
    return Frame(1, side, side) if side > 1 and side * side == dims[0] else None
