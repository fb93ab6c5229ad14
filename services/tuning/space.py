"""The knobs that a model has, and the configuration that a setting of them stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field

from services.serving.settings import MOST_ROWS, Pool, Tuning
from services.tuning.asked import KnobName, Objective, Strict

Value = bool | int | float | str
LEAST_STEPS = 2
FEWEST_STEPS_SHARE = 8
"""Down to this part of the default number of steps is searched."""
BUCKETS = ("as they come", "8", "1,4,16", "1,2,4,8,16")
GUIDANCE_START, GUIDANCE_END = "guidance_start", "guidance_end"
INTERVAL_STEP = 0.05


class About(Strict):
    """What a model is like on this machine, as the process found it that opened it.

    Attributes:
        id: its name.
        digest: changes whenever one of its files does.
        knees: by stage, the rows of a batch that its cost curve suggests.
        threads: the most of one evaluation; 0 on a GPU.
        precisions: of weights and activations that its hardware is quick at.
        on_torch: whether its networks run on torch, so that buckets matter.
        stored_twice: whether another export has to be left out for a precision to matter.
        guided: whether its evaluations have a second branch by default.
        defaults: of requests; empty where the family has none.
        samplers: that fit its schedule.
        max_steps: of a sampler; 0 where it takes no steps.
        judged: whether its images can be compared with held-out ones.
    """

    id: str
    digest: str
    knees: dict[str, int]
    threads: int
    precisions: tuple[str, ...] = ("float32",)
    on_torch: bool = False
    stored_twice: bool = False
    guided: bool = False
    defaults: dict[str, Any] = Field(default_factory=dict)
    samplers: tuple[str, ...] = ()
    max_steps: int = 0
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Dial:
    """One number or choice that is searched; a knob has one or, for an interval, two.

    Attributes:
        name: unique among dials.
        knob: what it belongs to.
        distribution: what it may be.
        default: what it is where nobody tunes.
    """

    name: str
    knob: KnobName
    distribution: BaseDistribution
    default: Value


def dials_of(
    about: About, objectives: Sequence[Objective], wanted: Sequence[KnobName], most_rows: int
) -> list[Dial]:
    """The dials of the wanted knobs, as far as the model has them.

    Args:
        about: the model.
        objectives: more steps than the default are searched only where FID is to be improved.
        wanted: names of knobs.
        most_rows: rows that can be in flight at once: a larger batch never fills.
    """
    found: list[Dial] = [*_rows(about, min(MOST_ROWS, most_rows)), *_hardware(about)]
    if about.max_steps and about.defaults:
        found += _sampling(about, finer="fid" in objectives)
    return [dial for dial in found if dial.knob in wanted]


def _rows(about: About, most: int) -> list[Dial]:
    stages: tuple[tuple[str, KnobName], ...] = (("step", "step_rows"), ("decode", "decode_rows"))
    return [
        Dial(
            knob,
            knob,
            IntDistribution(1, max(2, most, about.knees[stage]), log=True),
            about.knees[stage],
        )
        for stage, knob in stages
        if stage in about.knees
    ]


def _hardware(about: About) -> list[Dial]:
    found = []
    if about.threads > 1:
        counts = [1 << n for n in range(int(math.log2(about.threads)) + 1)]
        choices = tuple(dict.fromkeys([*counts, about.threads]))
        found.append(Dial("threads", "threads", CategoricalDistribution(choices), about.threads))
    if len(about.precisions) > 1:
        precisions = CategoricalDistribution(about.precisions)
        found.append(Dial("precision", "precision", precisions, about.precisions[0]))
    if about.on_torch:
        found.append(Dial("buckets", "buckets", CategoricalDistribution(BUCKETS), BUCKETS[0]))
    return found


def _sampling(about: About, *, finer: bool) -> list[Dial]:
    steps, sampler = int(about.defaults["steps"]), str(about.defaults["sampler"])
    fewest = max(LEAST_STEPS, steps // FEWEST_STEPS_SHARE)
    most = min(about.max_steps, 2 * steps if finer else steps)
    found = []
    if fewest < most:
        found.append(Dial("steps", "steps", IntDistribution(fewest, most, log=True), steps))
    if len(about.samplers) > 1:
        samplers = CategoricalDistribution(about.samplers)
        found.append(Dial("sampler", "sampler", samplers, sampler))
    if about.guided:
        start, end = about.defaults.get("guidance_interval") or (0.0, 1.0)
        for name, low, high, default in (
            (GUIDANCE_START, 0.0, 0.45, start),
            (GUIDANCE_END, 0.5, 1.0, end),
        ):
            share = FloatDistribution(low, high, step=INTERVAL_STEP)
            usual = min(high, max(low, float(default)))
            found.append(Dial(name, "guidance_interval", share, usual))
    return found


def defaults_of(dials: Sequence[Dial]) -> dict[str, Value]:
    """Every dial where it is if nobody tunes."""
    return {dial.name: dial.default for dial in dials}


def changed(values: Mapping[str, Value], dials: Sequence[Dial]) -> dict[str, Value]:
    """Those values that are not the defaults."""
    return {d.name: values[d.name] for d in dials if values[d.name] != d.default}


def configured(pool: Pool, about: About, values: Mapping[str, Value]) -> Pool:
    """A pool with a model tuned.

    Args:
        pool: with or without a tuning of the model, which is replaced.
        about: the model.
        values: of dials, those that are not the defaults (`changed`).
    """
    tuning: dict[str, Any] = {
        name: values[name] for name in ("step_rows", "decode_rows", "threads") if name in values
    }
    defaults: dict[str, Any] = {n: values[n] for n in ("steps", "sampler") if n in values}
    if GUIDANCE_START in values or GUIDANCE_END in values:
        start, end = about.defaults.get("guidance_interval") or (0.0, 1.0)
        shares = values.get(GUIDANCE_START, start), values.get(GUIDANCE_END, end)
        defaults["guidance_interval"] = [round(float(share), 2) for share in shares]
    torch: dict[str, Any] = {}
    if "precision" in values:
        torch["dtype"] = values["precision"]
        if about.stored_twice:
            tuning["export"] = "safetensors"
    if "buckets" in values:
        torch["batch_buckets"] = [int(size) for size in str(values["buckets"]).split(",")]
    if defaults:
        tuning["defaults"] = defaults
    others = {name: one for name, one in pool.tuning.items() if name != about.id}
    found = pool.model_dump()
    found["tuning"] = {
        **{name: one.model_dump() for name, one in others.items()},
        **({about.id: Tuning(**tuning).model_dump()} if tuning else {}),
    }
    if torch:
        own = found["torch"].get(about.id, found["torch"].get("*", {}))
        found["torch"] = {**found["torch"], about.id: {**own, **torch}}
    return Pool.model_validate(found)
