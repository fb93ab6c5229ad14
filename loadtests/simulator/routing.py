"""Which replica a simulated request goes to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from loadtests.simulator.events import Events
from services.serving.replica_loads import CHOICES, ReplicaLoads, Report, Sent

MODEL = "m"


class Router(Protocol):
    """One gateway's."""

    def offer(self, replicas: Sequence[str]) -> None:
        """These are the replicas from now on."""
        ...

    def choose(self, ticket: object, work: float) -> str:
        """Where a request goes; ``work`` is its predicted device seconds."""
        ...

    def over(self, ticket: object, replica: str, queue_seconds: float) -> None:
        """The request was answered by a replica that then held so much."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self, events: Events, draw: random.Random) -> None:  # noqa: ARG002 - as the others
        """Begin somewhere."""
        self._next = draw.randrange(1 << 20)
        self._replicas: Sequence[str] = ()

    def offer(self, replicas: Sequence[str]) -> None:
        """See `Router`."""
        self._replicas = replicas

    def choose(self, ticket: object, work: float) -> str:  # noqa: ARG002 - a router
        """See `Router`."""
        self._next += 1
        return self._replicas[self._next % len(self._replicas)]

    def over(self, ticket: object, replica: str, queue_seconds: float) -> None:
        """See `Router`."""


class OngoingRequests:
    """Of two, the one with fewer of this gateway's requests: what Ray Serve's router knows."""

    def __init__(self, events: Events, draw: random.Random) -> None:  # noqa: ARG002 - as the others
        """Know nothing."""
        self._draw = draw
        self._ongoing: Counter[str] = Counter()
        self._replicas: Sequence[str] = ()

    def offer(self, replicas: Sequence[str]) -> None:
        """See `Router`."""
        self._replicas = replicas

    def choose(self, ticket: object, work: float) -> str:  # noqa: ARG002 - a router
        """See `Router`."""
        two = self._draw.sample(self._replicas, min(2, len(self._replicas)))
        chosen = min(two, key=self._ongoing.__getitem__)
        self._ongoing[chosen] += 1
        return chosen

    def over(self, ticket: object, replica: str, queue_seconds: float) -> None:  # noqa: ARG002 - a router
        """See `Router`."""
        self._ongoing[replica] -= 1


class DeviceSeconds:
    """The service's own, of some choices."""

    choices = CHOICES

    def __init__(self, events: Events, draw: random.Random) -> None:
        """Know nothing."""
        self._events = events
        self.loads = ReplicaLoads(events.clock, draw, self.choices)
        self._sent: dict[int, Sent] = {}
        self._replicas: Sequence[str] = ()

    def offer(self, replicas: Sequence[str]) -> None:
        """See `Router`; replicas say that they have the model as soon as they are there."""
        new = set(replicas) - set(self._replicas)
        self._replicas = replicas
        self.loads.offer(replicas)
        for name in new:
            self.loads.hear(Report(name, self._events.now, 0.0, {MODEL: 1.0}))

    def choose(self, ticket: object, work: float) -> str:
        """See `Router`."""
        sent = self._sent[id(ticket)] = Sent(MODEL, work)
        chosen = self.loads.ranked(MODEL)[0]
        self.loads.assign(sent, chosen)
        self.loads.arrived(sent, chosen)
        return chosen

    def over(self, ticket: object, replica: str, queue_seconds: float) -> None:
        """See `Router`."""
        self.loads.hear(Report(replica, self._events.now, queue_seconds, {MODEL: 1.0}))
        self.loads.done(self._sent.pop(id(ticket)))


class TwoByDeviceSeconds(DeviceSeconds):
    """As above, of two."""

    choices = 2


class AllByDeviceSeconds(DeviceSeconds):
    """As above, of all."""

    choices = 1 << 20


ROUTERS: dict[str, type[Router]] = {
    "round_robin": RoundRobin,
    "ongoing_requests": OngoingRequests,
    "device_seconds_of_2": TwoByDeviceSeconds,
    "device_seconds": DeviceSeconds,
    "device_seconds_of_all": AllByDeviceSeconds,
}
