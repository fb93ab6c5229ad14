"""The levels that a sampler visits, and what every kind of schedule has in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """``steps + 1`` levels; the last is where the trajectory ends.

    ``times`` is what the network is told (``steps`` entries: none for the last level);
    ``initial_scale`` multiplies unit noise to give the first state; ``straight`` says that states
    lie on the straight line from noise to image, not on the circle that preserves variance.
    """

    times: Array
    alphas: Array
    sigmas: Array
    initial_scale: float = 1.0
    straight: bool = False

    def from_step(self, step: int) -> Grid:
        """The levels from a later step on; a trajectory that begins there scales no noise."""
        return Grid(
            self.times[step:], self.alphas[step:], self.sigmas[step:], straight=self.straight
        )


class NoiseSchedule(BaseModel):
    """Base of the schedules that a manifest can name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
