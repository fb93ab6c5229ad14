"""What may enter: a queue bounded by predicted work, deadlines that can be met."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.core.errors import DeadlineUnmeetable, QueueFull
from services.runtime.ticket import Ticket

MAX_RETRY_AFTER = 120.0


def admit(
    newcomers: Sequence[Ticket],
    waiting: Collection[Ticket],
    backlog: float,
    now: float,
    *,
    queue_seconds: float,
) -> None:
    """Let tickets in or say why not.

    Args:
        newcomers: the rows of one call; they enter together or not at all.
        waiting: every ticket already accepted.
        backlog: device seconds still reserved for those.
        now: on ``time.monotonic``.
        queue_seconds: the most device seconds that may be reserved at once. An empty queue takes
            any single call, however large.

    Raises:
        QueueFull: the work would not fit; says when it will.
        DeadlineUnmeetable: the work would not be done in time, even if everything less urgent
            stood back.
    """
    work = sum(t.remaining_work for t in newcomers)
    if waiting and backlog + work > queue_seconds:
        excess = backlog + work - queue_seconds
        raise QueueFull(
            f"the queue holds {backlog:.1f} s of work and takes {queue_seconds:g} s; "
            f"this request needs {work:.2f} s",
            retry_after=min(max(1.0, excess), MAX_RETRY_AFTER),
        )
    binding = [t for t in newcomers if t.binding]
    if not binding:
        return
    deadline = min(t.deadline for t in binding)
    ahead = sum(t.remaining_work for t in waiting if t.deadline <= deadline)
    solo = max(t.remaining_solo for t in newcomers)
    finish = now + ahead + max(solo, work)
    if finish > deadline:
        raise DeadlineUnmeetable(
            f"the answer would take about {finish - now:.2f} s, the deadline is in "
            f"{max(0.0, deadline - now):.2f} s; ask for fewer steps or images, or allow more time",
            param="deadline",
        )
