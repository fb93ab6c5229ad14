"""Noise schedules: how much signal and how much noise a state holds at each network time.

A state is ``x = alpha * x_0 + sigma * noise``. Variance-preserving diffusion has
``alpha^2 + sigma^2 = 1`` (Ho et al., 2020); rectified flow has ``alpha + sigma = 1`` (Liu et al.,
2022, eq. 1; Lipman et al., 2022). The ratio ``sigma / alpha`` is the sigma of Karras et al. (2022).
A grid is the levels that a sampler visits, noisiest first, with the clean image last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Spacing = Literal["leading", "linspace", "trailing"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """``steps + 1`` levels; the last is where the trajectory ends.

    ``times`` is what the network is told (``steps`` entries: none for the last level);
    ``initial_scale`` multiplies unit noise to give the first state.
    """

    times: Array
    alphas: Array
    sigmas: Array
    initial_scale: float = 1.0


class _Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VariancePreserving(_Schedule):
    """The discrete schedules of DDPM, with diffusers' names for their settings."""

    type: Literal["variance_preserving"] = "variance_preserving"
    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    timestep_spacing: Spacing | None = None
    steps_offset: int = 0

    @property
    def max_steps(self) -> int:
        """The most steps that a request can ask for."""
        return self.num_train_timesteps

    def signal(self) -> Array:
        """The cumulative product of ``1 - beta`` at every training time (Ho et al., 2020, eq. 4).

        Formed in float32, as diffusers forms it, so that the same configuration is the same model.
        """
        count = self.num_train_timesteps
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, count, dtype=np.float32)
        elif self.beta_schedule == "scaled_linear":
            roots = np.linspace(self.beta_start**0.5, self.beta_end**0.5, count, dtype=np.float32)
            betas = roots**2
        else:
            betas = np.array([_cosine_beta(i, count) for i in range(count)], dtype=np.float32)
        return np.cumprod(1 - betas, dtype=np.float32).astype(np.float64)

    def integer_grid(self, steps: int, default: Spacing) -> Grid:
        """Levels at training times, as DDPM and DDIM visit them."""
        times = self._times(steps, self.timestep_spacing or default, whole=True)
        return self._at_times(times)

    def solver_grid(self, steps: int, default: Spacing) -> Grid:
        """Levels of the multistep solvers: like `integer_grid`, but the last time is left out."""
        spacing = self.timestep_spacing or default
        count = self.num_train_timesteps
        if spacing == "linspace":
            times: Array = np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]
        elif spacing == "leading":
            ratio = count // (steps + 1)
            times = (np.arange(0.0, steps + 1) * ratio)[::-1][:-1] + self.steps_offset
        else:
            times = self._times(steps, spacing, whole=True)
        return self._at_times(times)

    def interpolated_grid(self, steps: int, default: Spacing) -> Grid:
        """Levels at fractional times, sigma interpolated linearly between training times."""
        spacing = self.timestep_spacing or default
        times = self._times(steps, spacing, whole=False)
        signal = self.signal()
        ratios = np.sqrt((1 - signal) / signal)
        sigmas = np.interp(times, np.arange(len(ratios)), ratios)
        grid = _from_ratio(times, sigmas)
        if spacing == "leading":
            return grid
        # Pipelines start from noise of standard deviation sigma alone, without the image's own.
        scale = sigmas[0] / math.sqrt(1 + sigmas[0] ** 2)
        return Grid(grid.times, grid.alphas, grid.sigmas, initial_scale=scale)

    def bound_grid(self, steps: int) -> Grid:
        """Levels for the variational bound, ending at the least noise that was trained on.

        Even in the log signal-to-noise ratio, at fractional times: even times would take most of
        the image's bits in one coarse last step.
        """
        signal = self.signal()
        ratios = 0.5 * np.log((1 - signal) / signal)
        visited = np.linspace(ratios[-1], ratios[0], steps + 1)
        times = np.interp(visited, ratios, np.arange(len(ratios)))
        alphas = 1 / np.sqrt(1 + np.exp(2 * visited))
        return Grid(times[:-1], alphas, np.exp(visited) * alphas)

    def inversion_grid(self, steps: int) -> Grid:
        """Levels from the least noise to the most, for deterministic encoding."""
        times = np.linspace(0, self.num_train_timesteps - 1, steps + 1).round()
        signal = self.signal()[times.astype(np.int64)]
        return Grid(times[:-1], np.sqrt(signal), np.sqrt(1 - signal))

    def _times(self, steps: int, spacing: Spacing, *, whole: bool) -> Array:
        count = self.num_train_timesteps
        if spacing == "linspace":
            times = np.linspace(0, count - 1, steps, dtype=None if whole else np.float32)[::-1]
            return times.round() if whole else times.astype(np.float64)
        if spacing == "leading":
            return (np.arange(float(steps)) * (count // steps))[::-1] + self.steps_offset
        return (count - np.arange(float(steps)) * (count / steps)).round() - 1.0

    def _at_times(self, times: Array) -> Grid:
        signal = self.signal()[times.astype(np.int64)]
        alphas = np.append(np.sqrt(signal), 1.0)
        return Grid(times, alphas, np.append(np.sqrt(1 - signal), 0.0))


class Flow(_Schedule):
    """Rectified flow: a straight line from noise at time 1 to the image at time 0.

    ``shift`` moves the visited times towards the noise (Esser et al., 2024, eq. 23);
    ``time_scale`` is what the network's time runs to (1000 in diffusers, 1 in our own).
    """

    type: Literal["flow"] = "flow"
    shift: Annotated[float, Field(gt=0, le=100)] = 1.0
    time_scale: Annotated[float, Field(gt=0, le=100_000)] = 1.0
    least_time: Annotated[float, Field(gt=0, lt=0.5)] = 0.01

    @property
    def max_steps(self) -> int:
        """The most steps that a request can ask for."""
        return 1000

    def grid(self, steps: int) -> Grid:
        """Evenly spaced times from 1 to 0, shifted."""
        return self._at_times(np.linspace(1.0, 0.0, steps + 1))

    def bound_grid(self, steps: int) -> Grid:
        """Levels for the variational bound: pure noise, then even in log signal-to-noise ratio."""
        noisy, clean = math.log(0.99 / 0.01), math.log(self.least_time / (1 - self.least_time))
        times = 1 / (1 + np.exp(-np.linspace(noisy, clean, steps)))
        return self._levels(np.insert(times, 0, 1.0))

    def inversion_grid(self, steps: int) -> Grid:
        """Evenly spaced times from the least noise to 1."""
        return self._levels(np.linspace(self.least_time, 1.0, steps + 1))

    def _at_times(self, times: Array) -> Grid:
        return self._levels(self.shift * times / (1 + (self.shift - 1) * times))

    def _levels(self, times: Array) -> Grid:
        return Grid(times[:-1] * self.time_scale, 1 - times, times)


Schedule = Annotated[VariancePreserving | Flow, Field(discriminator="type")]


def _cosine_beta(index: int, count: int) -> float:
    """Nichol and Dhariwal (2021), eq. 17, capped at 0.999."""

    def signal(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return min(1 - signal((index + 1) / count) / signal(index / count), 0.999)


def _from_ratio(times: Array, ratios: Array) -> Grid:
    """A variance-preserving grid from Karras et al.'s sigmas, a clean end appended."""
    ratios = np.append(ratios, 0.0)
    alphas = 1 / np.sqrt(1 + ratios**2)
    return Grid(times, alphas, ratios * alphas)
