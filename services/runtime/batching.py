"""Which rows step together.

Preemption is free: a trajectory that is not in this batch simply waits, state in hand. So the most
urgent row leads, by deadline and not by arrival; rows that can share its evaluation fill the batch
up to the knee of the cost curve, most urgent first; those among them that are new are prepared
first, so that they join that very evaluation; rows that can no longer make their deadline stand
back for those that still can; and a row that has stood back for too long goes first, so nothing
starves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.runtime.ticket import Ticket

PATIENCE_SECONDS = 1.0
"""A row is promoted when it has waited this long, or twice its own solo time if that is longer."""


def urgency(ticket: Ticket, now: float) -> tuple[int, float]:
    """Sort key: starving rows by waiting time, rows in time by deadline, late rows by age."""
    remaining = ticket.remaining_solo
    if now - ticket.touched > max(PATIENCE_SECONDS, 2 * remaining):
        return 0, ticket.touched
    if now + remaining <= ticket.deadline:
        return 1, ticket.deadline
    return 2, ticket.submitted


def row_limit(ticket: Ticket) -> int:
    """Rows that a batch led by this ticket may have: the knee, unless memory set a lower cap."""
    knee = ticket.model.costs.curve(ticket.target, ticket.key).knee()
    return min(knee, ticket.model.caps.get((ticket.target, ticket.key), knee))


def form_batch(tickets: Iterable[Ticket], now: float) -> Sequence[Ticket]:
    """The tickets to evaluate next, all in one stage; empty only when there are none."""
    ordered = sorted(tickets, key=lambda t: urgency(t, now))
    if not ordered:
        return ()
    lead = ordered[0]
    group, room = lead.group, row_limit(lead) - lead.rows
    batch = [lead]
    for ticket in ordered[1:]:
        if room <= 0:
            break
        if ticket.group == group and ticket.rows <= room:
            batch.append(ticket)
            room -= ticket.rows
    newcomers = [ticket for ticket in batch if ticket.stage == "prepare"]
    return newcomers[: lead.model.prepare_limit] or batch
