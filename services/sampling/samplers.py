"""Every sampler by its name: the levels it visits, and the rule that takes a state along them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Literal, get_args

from services.core.errors import InvalidParameter
from services.sampling import dpm_solver, langevin, linear_multistep, one_step
from services.sampling.plan import Plan, Rule, make
from services.sampling.schedule import Flow, Grid, Schedule, VarianceExploding, VariancePreserving
from services.sampling.sigma_schedules import SIGMA_SCHEDULES, SigmaSchedule

SamplerName = Literal[
    "ddpm",
    "ddim",
    "euler",
    "euler_ancestral",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "unipc",
    "lms",
    "pndm",
    "lcm",
    "predictor_corrector",
    "annealed_langevin",
]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
"""Names of the samplers, as requests spell them."""

_Noise = Literal["preserving", "preserving to zero signal", "straight", "exploding"]
_NO_SIGNAL = "starts from noise without any signal, by which {} would divide"
_NO_TIMES = "has no training times, and {} visits nothing else"
_EXPLODES = "preserves variance or is straight, and {} is for variance that explodes"
_WITHOUT_TIMES: dict[_Noise, str] = {"exploding": _NO_TIMES}
_NEEDS_SIGNAL: dict[_Noise, str] = {
    "straight": _NO_SIGNAL,
    "preserving to zero signal": _NO_SIGNAL,
    "exploding": _NO_TIMES,
}

_Levels = Callable[[VariancePreserving, int, SigmaSchedule | None], Grid]


@dataclass(frozen=True)
class _Sampler:
    """A rule, the levels it visits, and what it can do.

    Attributes:
        rule: the rows along a grid.
        levels: the grid on a variance-preserving schedule.
        most: steps that the grid has at most.
        any_levels: whether it takes a ``sigma_schedule``.
        misfits: why it does not fit, by the kind of noise.
    """

    rule: Rule
    levels: _Levels
    most: Callable[[VariancePreserving], int]
    any_levels: bool = True
    misfits: Mapping[_Noise, str] = field(default_factory=dict)


def _trained(
    rule: Rule, *, clean: bool, misfits: Mapping[_Noise, str] = _WITHOUT_TIMES
) -> _Sampler:
    """A sampler that stays at training times."""
    return _Sampler(
        rule,
        lambda schedule, steps, _: schedule.integer_grid(steps, "leading", clean=clean),
        lambda schedule: schedule.num_train_timesteps,
        any_levels=False,
        misfits=misfits,
    )


def _solver(rule: Rule) -> _Sampler:
    """A multistep solver between training times, which stops short of the last."""
    return _Sampler(
        rule,
        lambda schedule, steps, name: schedule.solver_grid(steps, "linspace", name),
        lambda schedule: schedule.num_train_timesteps - 1,
    )


def _fractional(rule: Rule, *, clean: bool = True) -> _Sampler:
    """A sampler that visits fractional times."""
    return _Sampler(
        rule,
        lambda schedule, steps, name: schedule.interpolated_grid(
            steps, "linspace", name, clean=clean
        ),
        lambda schedule: schedule.num_train_timesteps,
    )


_SAMPLERS: dict[SamplerName, _Sampler] = {
    "ddpm": _trained(one_step.ancestral, clean=True),
    "ddim": _trained(one_step.deterministic, clean=False),
    "euler": _fractional(one_step.deterministic, clean=False),
    "euler_ancestral": _fractional(one_step.ancestral),
    "heun": _fractional(one_step.heun),
    "dpmpp_2m": _solver(dpm_solver.multistep_2),
    "dpmpp_2m_sde": _solver(dpm_solver.multistep_sde_2),
    "dpmpp_3m_sde": _solver(dpm_solver.multistep_sde_3),
    "unipc": _solver(dpm_solver.unified),
    "lms": _fractional(linear_multistep.lms),
    "pndm": _trained(linear_multistep.pndm, clean=False, misfits=_NEEDS_SIGNAL),
    "lcm": _Sampler(
        one_step.consistency,
        lambda schedule, steps, _: schedule.distilled_grid(steps),
        lambda schedule: schedule.distilled_steps,
        any_levels=False,
        misfits=_WITHOUT_TIMES,
    ),
    "predictor_corrector": _fractional(one_step.predictor_corrector),
    "annealed_langevin": replace(
        _fractional(langevin.annealed),
        misfits={
            "preserving": _EXPLODES,
            "preserving to zero signal": _EXPLODES,
            "straight": _EXPLODES,
        },
    ),
}


def samplers_for(schedule: Schedule) -> tuple[SamplerName, ...]:
    """The samplers that fit a schedule."""
    noise = _noise(schedule)
    return tuple(name for name, kind in _SAMPLERS.items() if noise not in kind.misfits)


def sigma_schedules_for(schedule: Schedule) -> tuple[SigmaSchedule, ...]:
    """The sigma schedules that fit; see `VariancePreserving` for ``align_your_steps``."""
    aligned = isinstance(schedule, VariancePreserving) and schedule.aligned_model is not None
    return tuple(name for name in SIGMA_SCHEDULES if aligned or name != "align_your_steps")


def takes_levels(sampler: SamplerName) -> bool:
    """Whether a sampler can visit the levels of a sigma schedule."""
    return _SAMPLERS[sampler].any_levels


@lru_cache(maxsize=256)
def make_plan(
    sampler: str, schedule: Schedule, steps: int, sigma_schedule: SigmaSchedule | None = None
) -> Plan:
    """The plan of ``steps`` steps of a sampler on a schedule.

    Args:
        sampler: one of `SAMPLERS`.
        schedule: the model's noise schedule.
        steps: 1 to ``schedule.max_steps``; one less for multistep solvers between training times,
            which stop short of the last; the times of distillation for ``lcm``. Heun and
            predictor-corrector evaluate the network ``2 steps - 1`` times, PNDM ``steps + 1``, and
            annealed Langevin dynamics ``langevin_steps`` times at every level, and once more.
        sigma_schedule: levels to visit in place of the sampler's own.

    Raises:
        InvalidParameter: an unknown sampler, one that does not fit the schedule or takes no
            ``sigma_schedule``, levels that do not fit, or an impossible number of steps.
    """
    found = {str(name): kind for name, kind in _SAMPLERS.items()}.get(sampler)
    if found is None:
        raise InvalidParameter(
            f"unknown sampler '{sampler}'; known are {', '.join(SAMPLERS)}", param="sampler"
        )
    fitting = samplers_for(schedule)
    misfit = found.misfits.get(_noise(schedule))
    if misfit is not None:
        raise InvalidParameter(
            f"this model's schedule {misfit.format(sampler)}; use one of {', '.join(fitting)}",
            param="sampler",
        )
    if sigma_schedule is not None and not found.any_levels:
        free = ", ".join(name for name in fitting if _SAMPLERS[name].any_levels)
        raise InvalidParameter(
            f"{sampler} visits times of its own and takes no sigma_schedule; use one of {free}",
            param="sigma_schedule",
        )
    most = schedule.max_steps
    if isinstance(schedule, VariancePreserving):
        most = found.most(schedule)
    elif isinstance(schedule, VarianceExploding) and found.rule is langevin.annealed:
        most = max(1, langevin.MOST_EVALUATIONS // schedule.langevin_steps)
    if not 1 <= steps <= most:
        raise InvalidParameter(
            f"steps must be from 1 to {most} with {sampler}, got {steps}", param="steps"
        )
    if isinstance(schedule, VariancePreserving):
        return make(found.rule, found.levels(schedule, steps, sigma_schedule))
    return make(_rule(found.rule, schedule), schedule.grid(steps, sigma_schedule))


@lru_cache(maxsize=64)
def make_inversion_plan(schedule: Schedule, steps: int) -> Plan:
    """The deterministic sampler run backwards: from an image to the noise it would come from.

    DDIM inversion (Song et al., 2020, section 4.3): accurate to first order in the step.
    """
    return make(one_step.deterministic, schedule.inversion_grid(steps))


def _noise(schedule: Schedule) -> _Noise:
    """Which kind of noise a schedule is of."""
    if isinstance(schedule, Flow):
        return "straight"
    if isinstance(schedule, VarianceExploding):
        return "exploding"
    return "preserving to zero signal" if schedule.rescale_betas_zero_snr else "preserving"


def _rule(rule: Rule, schedule: Schedule) -> Rule:
    """A rule with what the schedule has to say of it."""
    if rule is langevin.annealed and isinstance(schedule, VarianceExploding):
        steps, size = schedule.langevin_steps, schedule.epsilon
        return partial(langevin.annealed, steps=steps, step_size=size)
    return rule
