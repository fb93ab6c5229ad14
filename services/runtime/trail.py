"""What the rows of one call went through, noted down where somebody wants to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a ticket knows its trail
    from services.runtime.ticket import Ticket


@dataclass(slots=True)
class Stretch:
    """A call's time in one stage, from its first evaluation there to the end of its last.

    ``began`` and ``ended`` are on ``time.monotonic``; ``busy`` are the seconds between them in
    which a row of the call was being evaluated. ``rows`` counts the call's own, over all
    evaluations; ``most_rows`` is the largest batch that it was part of, ``most_mates`` the most
    rows of others in one.
    """

    began: float
    ended: float
    busy: float = 0.0
    evaluations: int = 0
    rows: int = 0
    most_rows: int = 0
    most_mates: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One stepwise evaluation: when it was, the call's own rows in it, and those of others."""

    began: float
    ended: float
    rows: int
    mates: int


@dataclass(slots=True)
class Trail:
    """What the loop notes of one call; read once the call has left the loop.

    ``keep_steps`` bounds ``steps``, each of which is otherwise only part of its stretch.
    ``planned`` are the network evaluations that the longest of its rows takes before decoding.
    """

    submitted: float
    keep_steps: int = 0
    planned: int = 0
    stretches: dict[str, Stretch] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def evaluated(self, stage: str, began: float, ended: float, rows: int, mates: int) -> None:
        """Rows of the call have been part of an evaluation, beside those of its mates."""
        stretch = self.stretches.setdefault(stage, Stretch(began, ended))
        stretch.ended = ended
        stretch.busy += ended - began
        stretch.evaluations += 1
        stretch.rows += rows
        stretch.most_rows = max(stretch.most_rows, rows + mates)
        stretch.most_mates = max(stretch.most_mates, mates)
        if stage == "step" and len(self.steps) < self.keep_steps:
            self.steps.append(Step(began, ended, rows, mates))


def note(
    batch: Sequence[Ticket], rows_each: Sequence[int], stage: str, began: float, ended: float
) -> None:
    """Have every call in a batch that keeps a trail know of its evaluation.

    Args:
        batch: the tickets that were evaluated.
        rows_each: the rows of each.
        stage: ``prepare``, ``step`` or ``decode``.
        began: on ``time.monotonic``.
        ended: likewise.
    """
    trails = {id(ticket.trail): ticket.trail for ticket in batch if ticket.trail is not None}
    if not trails:
        return
    own: Counter[int] = Counter()
    for ticket, rows in zip(batch, rows_each, strict=True):
        own[id(ticket.trail)] += rows
    total = sum(rows_each)
    for key, trail in trails.items():
        trail.evaluated(stage, began, ended, own[key], total - own[key])
