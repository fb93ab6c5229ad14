"""Which rows step together.

Preemption is free: a trajectory that is not in this batch simply waits, state in hand. So the most
urgent row leads, by deadline and not by arrival; rows that can share its evaluation fill the batch
up to the knee of the cost curve, most urgent first, as long as the evaluation takes none of them
past its deadline; those among them that are new are prepared first, so that they join that very
evaluation; rows that can no longer make their deadline stand back for those that still can; and a
row that has stood back for too long goes first, so nothing starves.

Among several tenants this holds for the rows of those whose turn it is; see `fairness`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from services.runtime.caps import Kind
from services.runtime.fairness import GUEST_SHARE, FairShare
from services.runtime.ticket import Ticket

PREPARE_LIMIT = 32
"""Rows that are prepared at once."""
PREPARING: Kind = ("prepare", None)
PATIENCE_SECONDS = 1.0
"""A row is promoted when it has waited this long, or twice its own solo time if that is longer."""


def urgency(ticket: Ticket, now: float) -> tuple[int, float]:
    """Sort key: starving rows by waiting time, rows in time by deadline, late rows by age."""
    remaining = ticket.remaining_solo
    if now - ticket.touched > max(PATIENCE_SECONDS, 2 * remaining):
        return 0, ticket.touched
    return (2, ticket.submitted) if is_late(ticket, now) else (1, ticket.deadline)


def is_late(ticket: Ticket, now: float) -> bool:
    """Whether it misses its deadline even with the device to itself from now on."""
    return now + ticket.remaining_solo > ticket.deadline


def row_limit(ticket: Ticket) -> int:
    """Rows that a batch led by this ticket may have: the knee, unless memory set a lower cap."""
    knee = ticket.model.costs.curve(ticket.target, ticket.key).knee()
    return ticket.model.caps.limit((ticket.target, ticket.key), knee)


def affordable_seconds(ticket: Ticket, now: float) -> float:
    """How long each evaluation may take for the ticket to make its deadline.

    Never less than it takes alone, and without limit where the deadline is lost already.
    """
    if is_late(ticket, now):
        return math.inf
    left = ticket.deadline - now
    if ticket.target == "decode":
        return max(ticket.decode_solo, left)
    if ticket.target == "slice":
        return max(ticket.slice_solo, (left - ticket.decode_solo) / ticket.remaining_slices)
    return max(ticket.step_solo, (left - ticket.decoding_solo) / ticket.remaining_evaluations)


def form_batch(
    tickets: Iterable[Ticket], now: float, shares: FairShare | None = None
) -> Sequence[Ticket]:
    """The tickets to evaluate next, all in one stage; empty only when there are none.

    Args:
        tickets: every row that waits.
        now: on ``time.monotonic``.
        shares: whose turn it is among several tenants; without it they are as one.
    """
    ordered: Sequence[Ticket] = sorted(tickets, key=lambda t: urgency(t, now))
    if not ordered:
        return ()
    guests: Sequence[Ticket] = ()
    longest = math.inf
    if shares is not None:
        turn = shares.turn(ordered, now)
        ordered, guests, longest = turn.due, turn.guests, turn.longest
    lead = ordered[0]
    group = lead.group
    mates = [ticket for ticket in ordered[1:] if ticket.group == group]
    # With a whole batch of rows late the queue has outgrown what urgency can mend: throughput can.
    overloaded = sum(ticket.rows for ticket in mates if is_late(ticket, now)) >= row_limit(lead)

    def affordable(ticket: Ticket) -> float:
        return math.inf if overloaded else affordable_seconds(ticket, now)

    batch, allowed = [lead], min(longest, affordable(lead))
    allowed = _fill(batch, mates, allowed, affordable)
    if guests:
        # One that has yet to be prepared would hold up those that it joins.
        ready = [t for t in guests if t.group == group and t.stage != "prepare"]
        rows = sum(ticket.rows for ticket in batch)
        alone = lead.model.costs.curve(lead.target, lead.key).seconds(rows)
        _fill(batch, ready, min(allowed, alone * (1 + GUEST_SHARE)), affordable)
    newcomers = [ticket for ticket in batch if ticket.stage == "prepare"]
    return newcomers[: lead.model.caps.limit(PREPARING, PREPARE_LIMIT)] or batch


def _fill(
    batch: list[Ticket],
    mates: Iterable[Ticket],
    allowed: float,
    affordable: Callable[[Ticket], float],
) -> float:
    """Let mates join a batch as long as nobody in it is delayed past what it can afford.

    Returns:
        Seconds that the evaluation may take with all who joined.
    """
    lead = batch[0]
    curve = lead.model.costs.curve(lead.target, lead.key)
    limit, rows = row_limit(lead), sum(ticket.rows for ticket in batch)
    for ticket in mates:
        if rows >= limit:
            break
        if rows + ticket.rows > limit:
            continue
        allowed_with_it = min(allowed, affordable(ticket))
        if curve.seconds(rows + ticket.rows) <= allowed_with_it:
            batch.append(ticket)
            rows, allowed = rows + ticket.rows, allowed_with_it
    return allowed
