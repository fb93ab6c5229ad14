"""A replica evaluation by evaluation: the loop's own tickets and batches, simulated devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from loadtests.simulator.events import Events
from loadtests.simulator.requests import Finished, Network, Request
from services.core.engine import Engine
from services.core.job import Job
from services.core.trajectory import Trajectory, Workload
from services.runtime.batching import form_batch
from services.runtime.cost import Costs
from services.runtime.fairness import FairShare
from services.runtime.loop import new_ticket
from services.runtime.registry import LoadedModel
from services.runtime.ticket import Ticket

Noise = Callable[[float], float]
"""Makes of the seconds that an evaluation should take those that it does."""


def exactly(seconds: float) -> float:
    """No noise."""
    return seconds


class _Engine:
    """As much of an engine as a ticket needs; a job's parameters are its steps."""

    def workload(self, job: Job[Any]) -> Workload:
        return Workload("decode", "step", job.parameters)


@dataclass(slots=True)
class _Progress:
    """As much of a trajectory as a ticket needs."""

    rows: int = 1
    index: int = 0
    slices_left: int = 0


class SteppingReplica:
    """Evaluates one batch after the other, as `services.runtime.loop.Loop` does."""

    def __init__(
        self, events: Events, network: Network, finished: Finished, noise: Noise = exactly
    ) -> None:
        """Be idle; ``finished`` is told of each request whose last row is done."""
        self._events, self._finished, self._noise = events, finished, noise
        costs = Costs({("step", "step"): network.step, ("decode", "decode"): network.decode})
        self._model = LoadedModel(cast("Engine", _Engine()), "1", costs=costs, ready=True)
        self._shares = FairShare()
        self._tickets: dict[int, tuple[Ticket, Request]] = {}
        self._left: dict[int, int] = {}
        self._evaluating = False
        self.busy_seconds = 0.0

    @property
    def queue_seconds(self) -> float:
        """Device seconds reserved for what is accepted and not finished."""
        return sum(ticket.remaining_work for ticket, _ in self._tickets.values())

    @property
    def requests(self) -> int:
        """How many are under way."""
        return len(self._left)

    def submit(self, request: Request) -> None:
        """Accept a request."""
        now = self._events.now
        self._left[id(request)] = request.n
        jobs = [Job(f"{i}", "m", "generate", request.steps) for i in range(request.n)]
        tickets = [new_ticket(self._model, job, now) for job in jobs]
        self._shares.arrived(tickets, now)
        self._tickets |= {id(ticket): (ticket, request) for ticket in tickets}
        if not self._evaluating:
            self._turn()

    def _turn(self) -> None:
        now = self._events.now
        batch = form_batch([ticket for ticket, _ in self._tickets.values()], now, self._shares)
        while batch and batch[0].stage == "prepare":  # takes no time worth the name
            for ticket in batch:
                ticket.trajectory = cast("Trajectory", _Progress())
            batch = form_batch([ticket for ticket, _ in self._tickets.values()], now, self._shares)
        self._evaluating = bool(batch)
        if not batch:
            return
        lead = batch[0]
        curve = self._model.costs.curve(lead.target, lead.key)
        seconds = self._noise(curve.seconds(sum(ticket.rows for ticket in batch)))
        self.busy_seconds += seconds
        self._events.at(now + seconds, lambda: self._evaluated(batch, lead.target, seconds))

    def _evaluated(self, batch: Sequence[Ticket], stage: str, seconds: float) -> None:
        now = self._events.now
        self._shares.served(batch, [seconds / len(batch)] * len(batch))
        for ticket in batch:
            ticket.touched = now
            if stage == "step":
                cast("_Progress", ticket.trajectory).index += 1
            else:
                self._settle(ticket)
        self._turn()

    def _settle(self, ticket: Ticket) -> None:
        _, request = self._tickets.pop(id(ticket))
        self._shares.left(ticket, self._events.now)
        self._left[id(request)] -= 1
        if not self._left[id(request)]:
            del self._left[id(request)]
            request.ended = self._events.now
            self._finished(request)
