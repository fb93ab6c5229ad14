"""Diffusion over Gaussian data: everything about it has a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from services.core.images import Pixels
from services.core.network import OpenedModel
from services.sampling.denoiser import PredictionType
from services.sampling.schedule import Flow, Schedule, VariancePreserving
from tests.engines import RowByRow, floats, opened


@lru_cache
def _signal(schedule: VariancePreserving) -> Tensor:
    return torch.from_numpy(schedule.signal())


@dataclass(frozen=True)
class GaussianData:
    """Data ``x_0 ~ N(0, std^2 I)`` under a schedule: everything about it has a closed form."""

    std: float
    schedule: Schedule

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise of the times that a network is told."""
        if isinstance(self.schedule, Flow):
            sigmas = times.double() / self.schedule.time_scale
            return 1 - sigmas, sigmas
        signal = _signal(self.schedule)
        low = times.double().floor().long()
        high = (low + 1).clamp(max=len(signal) - 1)
        ratios = torch.sqrt((1 - signal) / signal)
        ratio = torch.lerp(ratios[low], ratios[high], times.double() - low)
        alphas = 1 / torch.sqrt(1 + ratio.square())
        return alphas, ratio * alphas

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """``E[x_0 | x]``."""
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return gain * x

    def network(self, shape: tuple[int, int, int], prediction: PredictionType) -> RowByRow:
        """The optimal network of a parameterisation."""

        def predict(x: Tensor, t: Tensor) -> Mapping[str, Tensor]:
            alphas, sigmas = self.levels(t)
            alpha, sigma = float(alphas), float(sigmas)
            clean = self.denoise(x.double(), alpha, sigma)
            noise = (x.double() - alpha * clean) / sigma
            output = {
                "epsilon": noise,
                "v_prediction": alpha * noise - sigma * clean,
                "sample": clean,
                "flow": noise - clean,
            }[prediction]
            return {"output": output.float()}

        return RowByRow(predict, {"x": floats(*shape), "t": floats()}, ["output"])

    def expected_terms(self, x_0: Tensor, steps: int) -> list[float]:
        """Expected nats of each step of the bound of ``x_0``, by the denoiser's mean squared error.

        With gain g, ``x_0 - g (alpha x_0 + sigma noise)`` has mean ``(1 - g alpha) x_0`` and
        variance ``(g sigma)^2`` in every dimension.
        """
        grid = self.schedule.bound_grid(steps)
        signal_to_noise = (grid.alphas / grid.sigmas) ** 2
        dims, square = x_0.numel(), float(x_0.double().square().sum())
        terms = []
        for i in range(steps):
            alpha, sigma = grid.alphas[i], grid.sigmas[i]
            gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
            error = (1 - gain * alpha) ** 2 * square + dims * (gain * sigma) ** 2
            terms.append(0.5 * (signal_to_noise[i + 1] - signal_to_noise[i]) * error)
        return terms


SCHEDULES: Mapping[str, tuple[Schedule, PredictionType]] = {
    "variance_preserving": (VariancePreserving(), "epsilon"),
    "velocity": (VariancePreserving(beta_schedule="scaled_linear"), "v_prediction"),
    "flow": (Flow(), "flow"),
}

STD = 0.3
SHAPE = (1, 8, 8)


def in_pixels(schedule: str = "flow", shape: tuple[int, int, int] = SHAPE) -> OpenedModel:
    """A model of images whose pixels are independent ``N(0, STD^2)`` on [-1, 1]."""
    kind, prediction = SCHEDULES[schedule]
    return opened(
        "diffusion",
        {"denoiser": GaussianData(STD, kind).network(shape, prediction)},
        resolution=shape[1:],
        channels=shape[0],
        options={"schedule": kind.model_dump(), "prediction_type": prediction},
    )


def typical(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Pixels:
    """An image that `in_pixels` could have drawn."""
    x = STD * np.random.default_rng(seed).standard_normal(shape)
    found: Pixels = ((x + 1) / 2 * 255).round().clip(0, 255).astype(np.uint8)
    return found
