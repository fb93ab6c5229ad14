"""Which rows step together.

Preemption is free: a trajectory that is not in this batch simply waits, state in hand. So the most
urgent row leads, by deadline and not by arrival; rows that can share its evaluation fill the batch
up to the knee of the cost curve, most urgent first, as long as the evaluation takes none of them
past its deadline; those among them that are new are prepared first, so that they join that very
evaluation; rows that can no longer make their deadline stand back for those that still can; and a
row that has stood back for too long goes first, so nothing starves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from services.runtime.caps import Kind
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
    if ticket.target == "decode":
        return max(ticket.decode_solo, ticket.deadline - now)
    slack = ticket.deadline - now - ticket.decode_solo
    return max(ticket.step_solo, slack / ticket.remaining_evaluations)


def form_batch(tickets: Iterable[Ticket], now: float) -> Sequence[Ticket]:
    """The tickets to evaluate next, all in one stage; empty only when there are none."""
    ordered = sorted(tickets, key=lambda t: urgency(t, now))
    if not ordered:
        return ()
    lead = ordered[0]
    curve = lead.model.costs.curve(lead.target, lead.key)
    limit, rows = row_limit(lead), lead.rows
    mates = [ticket for ticket in ordered[1:] if ticket.group == lead.group]
    # With a whole batch of rows late the queue has outgrown what urgency can mend: throughput can.
    overloaded = sum(ticket.rows for ticket in mates if is_late(ticket, now)) >= limit
    batch, allowed = [lead], math.inf if overloaded else affordable_seconds(lead, now)
    for ticket in mates:
        if rows >= limit:
            break
        if rows + ticket.rows > limit:
            continue
        afforded = math.inf if overloaded else affordable_seconds(ticket, now)
        allowed_with_it = min(allowed, afforded)
        if curve.seconds(rows + ticket.rows) <= allowed_with_it:
            batch.append(ticket)
            rows, allowed = rows + ticket.rows, allowed_with_it
    newcomers = [ticket for ticket in batch if ticket.stage == "prepare"]
    return newcomers[: lead.model.caps.limit(PREPARING, PREPARE_LIMIT)] or batch
