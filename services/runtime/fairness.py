"""Whose turn it is, where several tenants want one device.

Each tenant has a *start tag*: the device seconds that it has had, divided by its weight. The
*virtual time* is the start tag of whoever was served last, and goes on while the device is idle. A
tenant that comes back from idleness starts no further than `LEAD_SECONDS` behind the virtual time:
so it is ahead of those who kept the device busy, but only by so much (start-time fair queueing,
Goyal, Vin and Cheng, 1996). Its *finish tag* is the start tag and the work that it has waiting, up
to the same bound: whoever asks for much has no lead.

The tenant with the least finish tag leads. Others whose finish tag is close to it share its batches
as if their rows were its own, each with no more rows than it has itself: so one that begins to
flood is no burden in the moments before its work tells. All other rows are *guests* there, welcome
where they hardly slow it.

Nothing is preempted: who comes while another's batch is being evaluated waits for its end. So a
batch of a tenant that is not owed anything is cut short where one that asks for little was seen
lately (`Turn.longest`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from services.runtime.ticket import Ticket

LEAD_SECONDS = 2.0
"""Device seconds by which a tenant that asks for less than its share may be ahead of the others."""
PEER_SECONDS = 0.25
"""Tenants whose finish tags differ by less share batches, row for row."""
REMEMBERED_SECONDS = 60.0
"""A tenant that sent nothing for so long is not waited for."""
BLOCKING_SHARE = 0.15
"""Of its own solo latency that a light tenant may have to wait for a heavy one's evaluation."""
GUEST_SHARE = 0.05
"""Of an evaluation's time by which guests may prolong it."""


@dataclass(slots=True)
class _Tenant:
    """``solo`` is the shortest solo latency of what it asked for lately."""

    start: float
    seen: float
    solo: float
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What may be evaluated next.

    Attributes:
        due: the rows of the tenant that leads, then at most as many of each of its peers; each
            most urgent first.
        guests: all other rows, most urgent first.
        longest: seconds that the evaluation may take, unless the first row alone takes longer.
    """

    due: Sequence[Ticket]
    guests: Sequence[Ticket]
    longest: float


class FairShare:
    """Shares one device's seconds among tenants by their weights; safe from any thread."""

    def __init__(self) -> None:
        """Begin with no tenant."""
        self._tenants: dict[str, _Tenant] = {}
        self._virtual = 0.0
        self._rows = 0
        self._idle_since = math.inf
        self._lock = Lock()

    @property
    def known(self) -> int:
        """How many tenants are remembered."""
        return len(self._tenants)

    def arrived(self, tickets: Iterable[Ticket], now: float) -> None:
        """Tickets were accepted."""
        with self._lock:
            if not self._rows:
                self._virtual += max(0.0, now - self._idle_since)
            for ticket in tickets:
                tenant = self._known(ticket.job.tenant, now)
                if not tenant.rows:
                    tenant.start = max(tenant.start, self._virtual - LEAD_SECONDS)
                if now - tenant.seen > REMEMBERED_SECONDS:
                    tenant.solo = math.inf
                tenant.rows += 1
                self._rows += 1
                tenant.seen = now
                tenant.solo = min(tenant.solo, ticket.remaining_solo)

    def left(self, ticket: Ticket, now: float) -> None:
        """A ticket got its outcome."""
        with self._lock:
            tenant = self._tenants[ticket.job.tenant]
            tenant.rows -= 1
            tenant.seen = now
            self._rows -= 1
            self._idle_since = now

    def served(self, batch: Sequence[Ticket], shares: Sequence[float]) -> None:
        """A batch was evaluated, of which each ticket pays its share of the device's seconds."""
        with self._lock:
            self._virtual = max(self._virtual, self._tenants[batch[0].job.tenant].start)
            for ticket, share in zip(batch, shares, strict=True):
                self._tenants[ticket.job.tenant].start += share / ticket.job.weight

    def turn(self, ordered: Sequence[Ticket], now: float) -> Turn:
        """Whose turn it is.

        Args:
            ordered: every row that waits, most urgent first; at least one.
            now: on ``time.monotonic``.
        """
        with self._lock:
            if len(self._tenants) == 1:
                return Turn(ordered, (), math.inf)
            finish = self._finish_tags(ordered)
            leader = min(finish, key=lambda name: finish[name])
            longest = self._longest_evaluation(leader, finish[leader], now)
        if len(finish) == 1:
            return Turn(ordered, (), longest)
        last = finish[leader] + PEER_SECONDS
        own = [ticket for ticket in ordered if ticket.job.tenant == leader]
        others = [ticket for ticket in ordered if ticket.job.tenant != leader]
        peers: list[Ticket] = []
        guests: list[Ticket] = []
        places = {name: len(own) if tag <= last else 0 for name, tag in finish.items()}
        for ticket in others:
            (peers if places[ticket.job.tenant] > 0 else guests).append(ticket)
            places[ticket.job.tenant] -= 1
        return Turn([*own, *peers], guests, longest)

    def _finish_tags(self, waiting: Iterable[Ticket]) -> dict[str, float]:
        work: dict[str, float] = {}
        for ticket in waiting:
            name, seconds = ticket.job.tenant, ticket.remaining_work / ticket.job.weight
            work[name] = work.get(name, 0.0) + seconds
        return {
            name: self._tenants[name].start + min(seconds, LEAD_SECONDS)
            for name, seconds in work.items()
        }

    def _longest_evaluation(self, leader: str, finish: float, now: float) -> float:
        """Seconds that the leader's evaluation may take, for those who may come meanwhile.

        Without bound unless a tenant that has nothing waiting was seen lately, and would come back
        with less than the leader has had and asks for.
        """
        patience = [
            other.solo
            for name, other in self._tenants.items()
            if name != leader
            and not other.rows
            and max(other.start, self._virtual - LEAD_SECONDS) <= finish - PEER_SECONDS
            and now - other.seen <= REMEMBERED_SECONDS
        ]
        return BLOCKING_SHARE * min(patience, default=math.inf)

    def _known(self, name: str, now: float) -> _Tenant:
        found = self._tenants.get(name)
        if found is None:
            self._forget(now)
            found = _Tenant(self._virtual - LEAD_SECONDS, now, math.inf)
            self._tenants[name] = found
        return found

    def _forget(self, now: float) -> None:
        """Let go of tenants that would come back as if they were new."""
        gone = [
            name
            for name, tenant in self._tenants.items()
            if not tenant.rows
            and now - tenant.seen > REMEMBERED_SECONDS
            and tenant.start <= self._virtual - LEAD_SECONDS
        ]
        for name in gone:
            del self._tenants[name]
