"""Noise schedules: how much signal and how much noise a state holds at each network time.

A state is ``x = alpha * x_0 + sigma * noise``. Variance-preserving diffusion has
``alpha^2 + sigma^2 = 1`` (Ho et al., 2020); rectified flow has ``alpha + sigma = 1`` (Liu et al.,
2022, eq. 1; Lipman et al., 2022); variance-exploding noise has ``alpha = 1`` (Song et al., 2021).
The ratio ``sigma / alpha`` is the sigma of Karras et al. (2022).
A grid is the levels that a sampler visits, noisiest first, with the clean image last.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from services.core.errors import InvalidParameter
from services.sampling.grid import Array, Grid, NoiseSchedule
from services.sampling.sigma_schedules import SigmaSchedule, spread
from services.sampling.variance_exploding import VarianceExploding
from services.sampling.variance_preserving import LEAST_SIGNAL, VariancePreserving

__all__ = [
    "LEAST_SIGNAL",
    "Array",
    "Flow",
    "Grid",
    "Schedule",
    "VarianceExploding",
    "VariancePreserving",
]


class Flow(NoiseSchedule):
    """Rectified flow: a straight line from noise at time 1 to the image at time 0.

    ``shift`` moves the visited times towards the noise (Esser et al., 2024, eq. 23);
    ``time_scale`` is what the network's time runs to (1000 in diffusers, 1 in our own). Where
    ``last_time`` is given, times are spaced evenly down to it, before the shift, and the image
    follows it (Stable Diffusion 3).
    """

    type: Literal["flow"] = "flow"
    shift: Annotated[float, Field(gt=0, le=100)] = 1.0
    time_scale: Annotated[float, Field(gt=0, le=100_000)] = 1.0
    least_time: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    last_time: Annotated[float, Field(gt=0, lt=0.5)] | None = None

    @property
    def max_steps(self) -> int:
        """The most steps that a request can ask for."""
        return 1000

    def grid(self, steps: int, sigma_schedule: SigmaSchedule | None = None) -> Grid:
        """Evenly spaced times from 1 to 0, shifted; or what a ``sigma_schedule`` makes of them.

        It spans the times that would have been visited, as diffusers' flow matching does.

        Raises:
            InvalidParameter: ``align_your_steps``, which was published for other noise.
        """
        even = np.linspace(1.0, 0.0, steps + 1)
        if self.last_time is not None:
            even = np.append(np.linspace(1.0, self.last_time, steps), 0.0)
        if sigma_schedule is None:
            return self._at_times(even)
        if sigma_schedule == "align_your_steps":
            raise InvalidParameter(
                "align_your_steps has published levels for variance-preserving noise only, and "
                "this model is a straight flow; use karras, exponential or beta",
                param="sigma_schedule",
            )
        visited = self._shifted(even[:-1])
        times = spread(sigma_schedule, visited[0], visited[-1], steps)
        return self._levels(np.append(times, 0.0))

    def bound_grid(self, steps: int) -> Grid:
        """Levels for the variational bound: pure noise, then even in log signal-to-noise ratio."""
        noisy, clean = math.log(0.99 / 0.01), math.log(self.least_time / (1 - self.least_time))
        times = 1 / (1 + np.exp(-np.linspace(noisy, clean, steps)))
        return self._levels(np.insert(times, 0, 1.0))

    def inversion_grid(self, steps: int) -> Grid:
        """Evenly spaced times from the least noise to 1."""
        return self._levels(np.linspace(self.least_time, 1.0, steps + 1))

    def _at_times(self, times: Array) -> Grid:
        return self._levels(self._shifted(times))

    def _shifted(self, times: Array) -> Array:
        return self.shift * times / (1 + (self.shift - 1) * times)

    def _levels(self, times: Array) -> Grid:
        return Grid(times[:-1] * self.time_scale, 1 - times, times, straight=True)


Schedule = Annotated[VariancePreserving | Flow | VarianceExploding, Field(discriminator="type")]
