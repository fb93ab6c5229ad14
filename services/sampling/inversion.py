"""Ways that begin elsewhere than in noise: part of the way on, or at an image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from services.core.errors import InvalidParameter
from services.sampling.one_step import deterministic
from services.sampling.plan import Plan, Row, make
from services.sampling.samplers import make_plan
from services.sampling.schedule import Flow, Grid, Schedule
from services.sampling.sigma_schedules import SigmaSchedule


@lru_cache(maxsize=256)
def make_way(
    sampler: str,
    schedule: Schedule,
    steps: int,
    sigma_schedule: SigmaSchedule | None = None,
    *,
    strength: float = 1.0,
    inverts: bool = False,
) -> tuple[Plan, int]:
    """The plan of a request, and how many evaluations of it first carry an image to noise.

    Args:
        sampler: see `make_plan`.
        schedule: see `make_plan`.
        steps: of the whole way from noise.
        sigma_schedule: see `make_plan`.
        strength: in (0, 1], how much of that way is gone; see `steps_gone`.
        inverts: whether it begins with a climb; see `there_and_back`.

    Raises:
        InvalidParameter: see both.
    """
    plan = make_plan(sampler, schedule, steps, sigma_schedule)
    kept = steps_gone(schedule, steps, strength)
    if kept < steps:
        plan = plan.from_step(steps - kept)
    return there_and_back(schedule, plan) if inverts else (plan, 0)


def steps_gone(schedule: Schedule, steps: int, strength: float) -> int:
    """How many of a way's steps an edit of some strength goes; at least the last.

    A part of a step counts as diffusers' pipelines count it: those of flows take it whole, all
    others leave it out.
    """
    whole = steps * strength
    kept = steps - int(steps - whole) if isinstance(schedule, Flow) else int(whole)
    return min(steps, max(1, kept))


def there_and_back(schedule: Schedule, descent: Plan) -> tuple[Plan, int]:
    """A plan that climbs to where another begins, through the same levels, and then is that one.

    The climb is DDIM inversion (Song et al., 2020, section 4.3; Mokady et al., 2022, section 3.1):
    the deterministic sampler run backwards, accurate to first order in the step. It begins at the
    least noise that the model knows, with the image as that level's state.

    Args:
        schedule: the model's.
        descent: a plan that adds no noise, from any level on.

    Returns:
        The plan, and how many evaluations of it are the climb.

    Raises:
        InvalidParameter: the plan adds fresh noise, which would forget the image.
    """
    if descent.noise.any():
        raise InvalidParameter(
            "the sampler adds fresh noise, which would forget the image that was inverted; use one "
            "that adds none: ddim, euler, heun, dpmpp_2m, unipc or lms",
            param="sampler",
        )
    climb = deterministic(_reversed(schedule, descent.grid))

    def both(grid: Grid) -> list[Row]:
        return [*climb, *descent.rule(grid)]

    return make(both, descent.grid), len(climb)


def _reversed(schedule: Schedule, down: Grid) -> Grid:
    """The levels of a grid from the least noise upwards, below them the least that there is."""
    least = schedule.inversion_grid(2)
    alpha, sigma = least.alphas[0], least.sigmas[0]
    alphas, sigmas = down.alphas[: len(down.times)], down.sigmas[: len(down.times)]
    above = np.flatnonzero(sigmas * alpha > sigma * alphas)[::-1]
    return Grid(
        times=np.array([least.times[0], *down.times[above]])[: len(above)],
        alphas=np.array([alpha, *alphas[above]]),
        sigmas=np.array([sigma, *sigmas[above]]),
        straight=down.straight,
    )
