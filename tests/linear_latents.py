"""One pixel around a line in one latent: the posterior and the likelihood have closed forms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from services.core.network import OpenedModel
from services.sampling.schedule import Flow
from tests.engines import (
    RowByRow,
    floats,
    opened,
)
from tests.gaussian_data import GaussianData

LATENT_STD, GAIN, SHIFT, SCALE = 1.4, 20.0, 118.0, 6.0


def in_latents() -> OpenedModel:
    """One pixel around ``GAIN z + SHIFT``, ``z = 0.5 + 2 u``, ``u ~ N(0, LATENT_STD^2)``."""
    noise = (math.pi * SCALE) ** 2 / 3
    prior_mean, prior_variance = 0.5, (2 * LATENT_STD) ** 2
    precision = 1 / prior_variance + GAIN**2 / noise

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        mean = (prior_mean / prior_variance + GAIN * (image - SHIFT) / noise) / precision
        return {"mean": mean, "log_variance": torch.full_like(mean, -math.log(precision))}

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": GAIN * z + SHIFT}

    return opened(
        "diffusion",
        {
            "denoiser": GaussianData(LATENT_STD, Flow()).network((1, 1, 1), "flow"),
            "encoder": RowByRow(encode, {"image": floats(1, 1, 1)}, ["mean", "log_variance"]),
            "decoder": RowByRow(decode, {"z": floats(1, 1, 1)}, ["image"]),
        },
        resolution=(1, 1),
        pixel_range=(0.0, 255.0),
        options={
            "schedule": {"type": "flow"},
            "prediction_type": "flow",
            "latent": {"shape": [1, 1, 1], "shift": [0.5], "scale": [2.0]},
            "observation": {"scale": SCALE},
        },
    )
