"""The best few of a search, measured again: who won by luck does not win twice."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence

from services.tuning.asked import Asked, Objective, Outcome, Strict, excesses, value_of
from services.tuning.space import Value
from services.tuning.study import Tried

FINALISTS = 2
RARE = 0.05
OTHER_SAMPLES = 1 << 16
"""Finals are judged by samples that the search has not seen."""

MeasureAgain = Callable[[Mapping[str, Value], int], Outcome]
"""Measures changes beside the defaults, with the seed of the samples that are judged."""


class Final(Strict):
    """One finalist over all rounds.

    Attributes:
        number: of its trial.
        changes: values of the dials that are not at their defaults.
        rounds: what each round measured.
        median: of every number over the rounds.
        beyond: limits that it does not keep by its medians.
        better: whether it beats the defaults in the first objective, by its median and in too many
            rounds for it to be luck (`is_no_luck`).
    """

    number: int
    changes: dict[str, Value]
    rounds: list[Outcome]
    median: Outcome
    beyond: list[str]
    better: bool


def finalists(trials: Sequence[Tried], objective: Objective) -> list[Tried]:
    """The best within the limits by the first objective, those on the front before others.

    Never the defaults themselves.
    """
    good = [t for t in trials if t.changes and t.outcome is not None and not t.beyond]
    by_changes = {str(sorted(t.changes.items())): t for t in good}
    ranked = sorted(by_changes.values(), key=lambda t: (not t.front, _cost(objective, t.outcome)))
    return ranked[:FINALISTS]


def play(
    chosen: Sequence[Tried],
    asked: Asked,
    base: Outcome,
    measure: MeasureAgain,
    *,
    rounds: int,
    told: Callable[[], None] = lambda: None,
) -> list[Final]:
    """Measure every finalist in turn with the defaults, round by round, in changing order.

    Args:
        chosen: the finalists.
        asked: what is tuned for.
        base: the quality of the defaults by the samples that the finals are judged by.
        measure: measures one.
        rounds: how often.
        told: after each measurement.
    """
    draw = random.Random(asked.workload.seed)  # noqa: S311 - an order, nothing is guarded
    found: dict[int, list[Outcome]] = {trial.number: [] for trial in chosen}
    seed = asked.workload.seed + OTHER_SAMPLES
    for _ in range(rounds):
        for trial in draw.sample(list(chosen), len(chosen)):
            found[trial.number].append(measure(trial.changes, seed))
            told()
    return [_final(trial, found[trial.number], asked, base) for trial in chosen]


def winner(finals: Sequence[Final], asked: Asked) -> Final | None:
    """The best finalist that keeps every limit and beats the defaults; often there is none."""
    good = [final for final in finals if final.better and not final.beyond]
    return min(good, key=lambda f: _cost(asked.objectives[0], f.median), default=None)


def _final(trial: Tried, rounds: list[Outcome], asked: Asked, base: Outcome) -> Final:
    median = Outcome.model_validate(
        {name: _median([getattr(r, name) for r in rounds]) for name in Outcome.model_fields}
    )
    first = asked.objectives[0]
    par = value_of(first, base)
    wins = [_beats(first, value_of(first, outcome), par) for outcome in rounds]
    return Final(
        number=trial.number,
        changes=trial.changes,
        rounds=rounds,
        median=median,
        beyond=[n for n, excess in excesses(median, base, asked.limits).items() if excess > 0],
        better=_beats(first, value_of(first, median), par) and is_no_luck(sum(wins), len(wins)),
    )


def is_no_luck(wins: int, rounds: int) -> bool:
    """Whether so many wins would be rare for a setting that is no better: a one-sided sign test.

    Fewer than five rounds are never enough.
    """
    ways = sum(math.comb(rounds, won) for won in range(wins, rounds + 1))
    return ways <= RARE * math.pow(2, rounds)


def _beats(objective: Objective, value: float, par: float) -> bool:
    return value > par if objective == "throughput" else value < par


def _cost(objective: Objective, outcome: Outcome | None) -> float:
    if outcome is None:
        return float("inf")
    value = value_of(objective, outcome)
    return -value if objective == "throughput" else value


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
