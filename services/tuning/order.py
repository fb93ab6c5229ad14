"""What a tuning is to do, and whom it tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.tuning.asked import KnobName, Limits, Objective, Outcome, Workload
from services.tuning.study import Tried

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many parts are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Order:
    """What `tune` is to do.

    Attributes:
        model: its name.
        objectives: what to improve, at least one.
        limits: what may not be lost.
        workload: how the model is used meanwhile.
        knobs: what may be changed.
        trials: of the search, those of earlier runs among them.
        minutes: for everything; as long as it takes if ``None``.
        rounds: of the finals.
        config: what the model is served by.
        store: folder of the user's models.
        out: folder for the results; a study in it is gone on with.
    """

    model: str
    objectives: tuple[Objective, ...]
    limits: Limits
    workload: Workload
    knobs: tuple[KnobName, ...]
    trials: int
    minutes: float | None
    rounds: int
    config: Path
    store: str | None
    out: Path
    progress: Progress = field(default=lambda what, done, total: None)
    told: Callable[[Tried, Outcome], None] = field(default=lambda tried, base: None)
