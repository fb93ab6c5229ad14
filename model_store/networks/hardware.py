"""Where networks are opened, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from model_store.limits import StoreLimits
from model_store.manifest import TorchOptions
from model_store.networks.measurements import Measurements

Export = Literal["onnx", "safetensors", "diffusers"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where networks are opened, and what is known of it.

    ``prefer`` names the export to take where there are two, instead of the faster; ``options``
    say how to run what runs on torch.
    """

    device: torch.device
    threads: int
    measurements: Measurements
    limits: StoreLimits
    prefer: Export | None = None
    options: TorchOptions = field(default_factory=TorchOptions)
