"""A replica as processor sharing: for fleets whose single evaluations are too many to follow.

All rows move at one pace, which their number sets: with k of them, each evaluation takes b = min(k,
knee) rows and ``curve.seconds(b)``, so each row does b / (k seconds(b)) steps per second. A row
that has come is done when the steps that every row has done since are as many as its own
(Kleinrock, 1976, section 4.4, with a rate that depends on the state). Decoding counts as steps of
the same cost. What deadlines reorder is lost; `SteppingReplica` has it.
"""

from __future__ import annotations

import heapq
from functools import cache

from loadtests.simulator.events import Events
from loadtests.simulator.requests import Finished, Network, Request


class SharingReplica:
    """Serves all its rows at once."""

    def __init__(self, events: Events, network: Network, finished: Finished) -> None:
        """Be idle; ``finished`` is told of each request that is done."""
        self._events, self._network, self._finished = events, network, finished
        self._row_seconds = network.step.row_seconds()
        self._decode_steps = network.decode.row_seconds() / self._row_seconds
        self._pace = _paces(network)
        self._heap: list[tuple[float, int, Request]] = []
        self._served = 0
        self._done = self._since = 0.0
        self._rows = 0
        self._goals = 0.0
        self._plan = 0
        self.busy_seconds = 0.0

    @property
    def queue_seconds(self) -> float:
        """Device seconds reserved for what is accepted and not finished."""
        self._advance()
        return max(0.0, self._goals - self._rows * self._done) * self._row_seconds

    @property
    def requests(self) -> int:
        """How many are under way."""
        return len(self._heap)

    def submit(self, request: Request) -> None:
        """Accept a request."""
        self._advance()
        goal = self._done + request.steps + self._decode_steps
        self._served += 1
        heapq.heappush(self._heap, (goal, self._served, request))
        self._rows += request.n
        self._goals += request.n * goal
        self._plan_next()

    def _advance(self) -> None:
        now = self._events.now
        if self._rows and now > self._since:
            self._done += (now - self._since) * self._pace(self._rows)
            self.busy_seconds += now - self._since
        self._since = now

    def _plan_next(self) -> None:
        self._plan += 1
        if not self._heap:
            self._done = self._goals = 0.0
            return
        plan = self._plan
        wait = max(0.0, self._heap[0][0] - self._done) / self._pace(self._rows)
        self._events.at(self._events.now + wait, lambda: self._complete(plan))

    def _complete(self, plan: int) -> None:
        if plan != self._plan:  # who came since has changed the pace
            return
        self._advance()
        goal, _, request = heapq.heappop(self._heap)
        self._done = max(self._done, goal)
        self._rows -= request.n
        self._goals -= request.n * goal
        request.ended = self._events.now
        self._plan_next()
        self._finished(request)


@cache
def _paces(network: Network):  # noqa: ANN202 - a cached function of its own
    knee = network.step.knee()

    @cache
    def pace(rows: int) -> float:
        """Steps per second of each of so many rows."""
        batch = min(rows, knee)
        return batch / (rows * network.step.seconds(batch))

    return pace
