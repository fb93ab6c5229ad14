"""What may enter: a queue bounded by predicted work, deadlines that can be met.

Where several tenants wait, none can fill the queue for the others: one whose own work fits its
share of the queue enters even where the whole is full. With n tenants of equal weight the queue so
holds at most ``1 + 1/2 + ... + 1/n`` times what one alone could put into it.
"""

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
        own, share = _own_part(newcomers[0], waiting, backlog, queue_seconds)
        if own + work > share:
            excess = min(backlog + work - queue_seconds, own + work - share)
            raise QueueFull(
                f"the queue holds {backlog:.1f} s of work and takes {queue_seconds:g} s; "
                f"this request needs {work:.2f} s",
                retry_after=min(max(1.0, excess), MAX_RETRY_AFTER),
            )
    _check_deadline(newcomers, waiting, now, work)


def _own_part(
    newcomer: Ticket, waiting: Collection[Ticket], backlog: float, queue_seconds: float
) -> tuple[float, float]:
    """Device seconds that the newcomer's tenant has in the queue, and its share of the queue."""
    others = [t for t in waiting if t.job.tenant != newcomer.job.tenant]
    weights = {t.job.tenant: t.job.weight for t in others}
    weight = newcomer.job.weight
    share = queue_seconds * (weight / (weight + sum(weights.values())))
    return backlog - sum(t.remaining_work for t in others), share


def _check_deadline(
    newcomers: Sequence[Ticket], waiting: Collection[Ticket], now: float, work: float
) -> None:
    binding = [t for t in newcomers if t.binding]
    if not binding:
        return
    deadline = min(t.deadline for t in binding)
    solo = max(t.remaining_solo for t in newcomers)
    ahead = _ahead(newcomers[0], waiting, deadline, max(solo, work))
    finish = now + ahead + max(solo, work)
    if finish > deadline:
        raise DeadlineUnmeetable(
            f"the answer would take about {finish - now:.2f} s, the deadline is in "
            f"{max(0.0, deadline - now):.2f} s; ask for fewer steps or images, or allow more time",
            param="deadline",
        )


def _ahead(newcomer: Ticket, waiting: Collection[Ticket], deadline: float, needed: float) -> float:
    """Device seconds that will be spent on more urgent work before the newcomer is done.

    While it gets what it and its tenant's other work need, other tenants get no more than their
    weights allow them.
    """
    urgent = [t for t in waiting if t.deadline <= deadline]
    tenant, weight = newcomer.job.tenant, newcomer.job.weight
    own = sum(t.remaining_work for t in urgent if t.job.tenant == tenant)
    weights = {t.job.tenant: t.job.weight for t in urgent if t.job.tenant != tenant}
    if not weights:
        return own
    others = sum(t.remaining_work for t in urgent if t.job.tenant != tenant)
    return own + min(others, (own + needed) * sum(weights.values()) / weight)
