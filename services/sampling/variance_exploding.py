"""Noise that grows over an image at full strength."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from services.core.errors import InvalidParameter
from services.sampling.grid import Array, Grid, NoiseSchedule
from services.sampling.sigma_schedules import SigmaSchedule, spread


class VarianceExploding(NoiseSchedule):
    """Noise that grows over an image at full strength: NCSN and the VE SDE.

    Levels are geometric from ``sigma_max`` to ``sigma_min`` (Song and Ermon, 2019, section 4;
    Song et al., 2021, eq. 9). ``told`` is what the network hears: the ``sigma``, or the number of
    the nearest of ``num_levels`` trained ``level``s, 0 the noisiest. ``langevin_steps`` and
    ``langevin_step_size`` are T and epsilon of Song and Ermon's algorithm 1; a size that is not
    given is their ratio to the last level, ``sigma_min^2 / 5``.
    """

    type: Literal["variance_exploding"] = "variance_exploding"
    sigma_min: Annotated[float, Field(gt=0)] = 0.01
    sigma_max: Annotated[float, Field(gt=0, le=10_000)] = 50.0
    num_levels: Annotated[int, Field(ge=2, le=100_000)] = 1000
    told: Literal["sigma", "level"] = "sigma"
    langevin_steps: Annotated[int, Field(ge=1, le=1000)] = 100
    langevin_step_size: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _levels_fall_and_steps_converge(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        if self.epsilon > 2 * self.sigma_min**2:
            raise ValueError(
                f"langevin_step_size must be at most 2 sigma_min^2 = {2 * self.sigma_min**2:g}, or "
                "a step would go beyond the denoised image"
            )
        return self

    @property
    def epsilon(self) -> float:
        """The step size of annealed Langevin dynamics at the last level."""
        given = self.langevin_step_size
        return self.sigma_min**2 / 5 if given is None else given

    @property
    def max_steps(self) -> int:
        """The most steps that a request can ask for."""
        return 1000

    def grid(self, steps: int, sigma_schedule: SigmaSchedule | None = None) -> Grid:
        """Levels even in log sigma, or as a ``sigma_schedule`` spreads them; then the clean image.

        Raises:
            InvalidParameter: ``align_your_steps``, which was published for other noise.
        """
        if sigma_schedule == "align_your_steps":
            raise InvalidParameter(
                "align_your_steps has published levels for variance-preserving noise only, and "
                "this model's variance explodes; use karras, exponential or beta",
                param="sigma_schedule",
            )
        name = sigma_schedule or "exponential"
        sigmas = spread(name, self.sigma_max, self.sigma_min, steps)
        return self._levels(np.append(sigmas, 0.0), initial_scale=self.sigma_max)

    def bound_grid(self, steps: int) -> Grid:
        """Levels even in log sigma, ending at the least noise that was trained on."""
        return self._levels(np.geomspace(self.sigma_max, self.sigma_min, steps + 1))

    def inversion_grid(self, steps: int) -> Grid:
        """Levels from the least noise to the most, for deterministic encoding."""
        return self._levels(np.geomspace(self.sigma_min, self.sigma_max, steps + 1))

    def _levels(self, sigmas: Array, initial_scale: float = 1.0) -> Grid:
        times = sigmas[:-1]
        if self.told == "level":
            depth = np.log(self.sigma_max / times) / math.log(self.sigma_max / self.sigma_min)
            times = (depth * (self.num_levels - 1)).round()
        return Grid(times, np.ones_like(sigmas), sigmas, initial_scale=initial_scale)
