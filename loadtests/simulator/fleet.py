"""A pool of simulated replicas behind some gateways, perhaps scaled."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from loadtests.simulator.events import Events
from loadtests.simulator.requests import Finished, Network, Request
from loadtests.simulator.routing import ROUTERS
from services.serving.autoscaling import wanted_replicas

WITHIN = 5.0
"""A request is in time within so many times its solo latency."""


class Replica(Protocol):
    """`SteppingReplica` or `SharingReplica`."""

    busy_seconds: float

    @property
    def queue_seconds(self) -> float:
        """See `Report`."""
        ...

    @property
    def requests(self) -> int:
        """How many are under way."""
        ...

    def submit(self, request: Request) -> None:
        """Accept a request."""
        ...


MakeReplica = Callable[[Events, Network, Finished], Replica]


@dataclass(frozen=True, slots=True)
class Scaling:
    """As `services.serving.settings.Autoscaling`, with how long a replica takes to start.

    With ``target_ongoing_requests`` requests are counted, else device seconds.
    """

    least: int
    most: int
    target_queue_seconds: float = 2.0
    target_ongoing_requests: float | None = None
    period: float = 10.0
    up_delay: float = 10.0
    down_delay: float = 300.0
    start_seconds: float = 60.0


@dataclass(slots=True)
class Tally:
    """What came of the requests, and what the fleet did."""

    latency: list[float] = field(default_factory=list)
    slowdown: list[float] = field(default_factory=list)
    replica_seconds: float = 0.0
    busy_seconds: float = 0.0
    ups: int = 0
    downs: int = 0
    started: int = 0
    most: int = 0
    replicas: list[tuple[float, int]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Percentiles, goodput, utilisation, scale events."""
        times, slow = np.array(self.latency), np.array(self.slowdown)
        return {
            "requests": len(times),
            "p50": round(float(np.percentile(times, 50)), 3),
            "p99": round(float(np.percentile(times, 99)), 3),
            "p50_slowdown": round(float(np.percentile(slow, 50)), 3),
            "p99_slowdown": round(float(np.percentile(slow, 99)), 3),
            "in_time": round(float(np.mean(slow <= WITHIN)), 4),
            "utilisation": round(self.busy_seconds / max(self.replica_seconds, 1e-9), 3),
            "replica_hours": round(self.replica_seconds / 3600, 2),
            "most_replicas": self.most,
            "scale_ups": self.ups,
            "scale_downs": self.downs,
        }


class Fleet:
    """Takes requests when they are due and routes each by one of its gateways."""

    def __init__(
        self,
        network: Network,
        make: MakeReplica,
        *,
        replicas: int,
        router: str = "device_seconds",
        gateways: int = 1,
        scaling: Scaling | None = None,
        seed: int = 0,
    ) -> None:
        """Start with so many replicas, all idle."""
        self.events = Events()
        self.tally = Tally()
        self._network, self._make, self._scaling = network, make, scaling
        draw = random.Random(seed)
        self._routers = [
            ROUTERS[router](self.events, random.Random(draw.random()))  # type: ignore[call-arg]  # all of ours do
            for _ in range(gateways)
        ]
        self._draw = draw
        self._replicas: dict[str, Replica] = {}
        self._leaving: dict[str, Replica] = {}
        self._began: dict[str, float] = {}
        self._placed: dict[int, tuple[int, str]] = {}
        self._target = replicas
        self._starting = 0
        self._accepted = 0.0
        self._wish_since: float | None = None
        for _ in range(replicas):
            self._join()
        self._offer()

    def run(self, requests: Iterable[Request], until: float = math.inf) -> Tally:
        """Serve requests in the order in which they are due, to the last answer."""
        coming = iter(requests)
        self._next(coming)
        if self._scaling is not None:
            self.events.at(self._scaling.period, lambda: self._scale(until))
        self.events.run()
        for name in [*self._replicas, *self._leaving]:
            self._retire(name)
        return self.tally

    def _next(self, coming: Iterator[Request]) -> None:
        request = next(coming, None)
        if request is not None:
            self.events.at(request.due, lambda: self._arrive(request, coming))

    def _arrive(self, request: Request, coming: Iterator[Request]) -> None:
        gateway = self._draw.randrange(len(self._routers))
        work = self._network.work(request)
        name = self._routers[gateway].choose(request, work)
        self._placed[id(request)] = gateway, name
        self._accepted += work
        self._replicas[name].submit(request)
        self._next(coming)

    def _over(self, request: Request) -> None:
        gateway, name = self._placed.pop(id(request))
        replica = self._replicas.get(name) or self._leaving[name]
        self._routers[gateway].over(request, name, replica.queue_seconds)
        seconds = self.events.now - request.due
        self.tally.latency.append(seconds)
        self.tally.slowdown.append(seconds / self._network.solo(request))
        if name in self._leaving and not replica.requests:
            self._retire(name)

    def _join(self) -> None:
        name = f"r{self.tally.started}"
        self.tally.started += 1
        self._replicas[name] = self._make(self.events, self._network, self._over)
        self._began[name] = self.events.now

    def _retire(self, name: str) -> None:
        replica = self._leaving.pop(name, None) or self._replicas.pop(name)
        self.tally.replica_seconds += self.events.now - self._began.pop(name)
        self.tally.busy_seconds += replica.busy_seconds

    def _offer(self) -> None:
        names = list(self._replicas)
        self.tally.most = max(self.tally.most, len(names))
        self.tally.replicas.append((self.events.now, len(names)))
        for router in self._routers:
            router.offer(names)

    def _wanted(self, scaling: Scaling) -> int:
        replicas = self._replicas.values()
        if scaling.target_ongoing_requests is not None:
            wanted = sum(r.requests for r in replicas) / scaling.target_ongoing_requests
        else:
            offered, self._accepted = self._accepted / scaling.period, 0.0
            queued = sum(r.queue_seconds for r in replicas)
            wanted = wanted_replicas(queued, offered, scaling.target_queue_seconds)
        return min(max(math.ceil(wanted), scaling.least), scaling.most)

    def _scale(self, until: float) -> None:
        scaling = self._scaling
        if scaling is None:
            return
        wanted = self._wanted(scaling)
        up = wanted > self._target
        delay = scaling.up_delay if up else scaling.down_delay
        if wanted == self._target or (self._wish_since or 0.0) * (1 if up else -1) < 0:
            self._wish_since = None
        if wanted != self._target:
            # The sign tells the direction of the wish.
            self._wish_since = self._wish_since or (self.events.now if up else -self.events.now)
            if self.events.now - abs(self._wish_since) >= delay:
                self._wish_since = None
                self._set_target(wanted, scaling)
        if self.events.now < until:
            self.events.at(self.events.now + scaling.period, lambda: self._scale(until))

    def _set_target(self, wanted: int, scaling: Scaling) -> None:
        more = wanted - len(self._replicas) - self._starting
        self._target = wanted
        if more > 0:
            self.tally.ups += 1
            self._starting += more
            self.events.at(self.events.now + scaling.start_seconds, lambda: self._started(more))
        elif more < 0:
            self.tally.downs += 1
            for name in list(self._replicas)[wanted:]:
                self._leaving[name] = self._replicas.pop(name)
                if not self._leaving[name].requests:
                    self._retire(name)
            self._offer()

    def _started(self, count: int) -> None:
        self._starting -= count
        for _ in range(count):
            self._join()
        self._offer()
