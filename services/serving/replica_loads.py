"""How much work each replica of a pool holds, as one gateway knows it; pure, without Ray.

What a replica said last, less the time since, and what this gateway has sent it and it cannot have
counted yet. Replicas say it with every answer, so it costs no message of its own; what other
gateways sent is in it too. A replica's clock is its own: only the least delay that was ever seen
between what it says and when that is heard is taken for the difference of the two clocks.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

CHOICES = 8
"""Replicas that are compared for a request. With all of a large pool, several gateways that know
the same would all send to the same replica."""
ASSUMED_LOADING_SECONDS = 2.0
"""Of a model that no replica is known to have loaded yet."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says of itself.

    Attributes:
        replica: its id.
        at: when it said so, in seconds on its own clock, which never goes back.
        queue_seconds: predicted device seconds of what it has accepted and not finished.
        loaded: the models that are ready to work there, with the seconds that loading them took.
    """

    replica: str
    at: float
    queue_seconds: float
    loaded: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Sent:
    """A call on its way or under way: what it will cost, where it was sent, when it got there."""

    model: str
    seconds: float
    replica: str | None = None
    arrived: float | None = None


@dataclass(slots=True)
class _Known:
    """One replica. ``offset`` is this clock less the replica's; ``heard`` is on this clock."""

    queue_seconds: float = 0.0
    said: float = -math.inf
    offset: float = math.inf
    heard: float = -math.inf
    loaded: Mapping[str, float] = field(default_factory=dict)
    under_way: dict[Sent, None] = field(default_factory=dict)
    uncounted: dict[Sent, None] = field(default_factory=dict)


class ReplicaLoads:
    """One gateway's view of a pool's replicas. Safe from any thread."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        draw: random.Random | None = None,
        choices: int = CHOICES,
    ) -> None:
        """Know no replica yet.

        Args:
            clock: seconds that never go back.
            draw: which replicas are compared.
            choices: how many.
        """
        self._clock = clock
        self._draw = draw or random.Random()  # noqa: S311 - nothing is guarded by it
        self._choices = choices
        self._known: defaultdict[str, _Known] = defaultdict(_Known)
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        self._loading: dict[str, float] = {}
        self._offered: tuple[str, ...] = ()
        self._names: frozenset[str] = frozenset()
        self._lock = Lock()

    def offer(self, replicas: Sequence[str]) -> None:
        """These are the pool's replicas from now on; what was known of others is forgotten."""
        with self._lock:
            self._offered, self._names = tuple(replicas), frozenset(replicas)
            for name in self._known.keys() - self._names:
                for model in self._known.pop(name).loaded:
                    self._holders[model].discard(name)

    def ranked(self, model: str) -> list[str]:
        """Some of the replicas on offer, the one that will begin soonest first.

        Those where the model would have to be loaded are the later for it. Of replicas that are
        alike, one with fewer of this gateway's calls comes first, then chance decides.
        """
        with self._lock:
            now = self._clock()
            compared = self._compared(model)
            return sorted(compared, key=lambda name: self._rank(name, model, now))

    def assign(self, sent: Sent, replica: str) -> None:
        """A call goes to a replica, and no more to the one before."""
        with self._lock:
            self._take_back(sent)
            if replica in self._names:
                sent.replica = replica
                known = self._known[replica]
                known.under_way[sent] = known.uncounted[sent] = None

    def arrived(self, sent: Sent, replica: str) -> None:
        """A replica has taken a call: whatever it says from now on includes it."""
        if sent.replica != replica:
            self.assign(sent, replica)
        sent.arrived = self._clock()

    def done(self, sent: Sent) -> None:
        """A call is over, however it ended."""
        with self._lock:
            self._take_back(sent)

    def hear(self, report: Report) -> None:
        """Take in what a replica says, unless something later was heard of it already.

        What a replica says that is not on offer, perhaps no more, is of no use.
        """
        with self._lock:
            if report.replica not in self._names:
                return
            known = self._known[report.replica]
            if report.at <= known.said:
                return
            known.offset = min(known.offset, self._clock() - report.at)
            known.said, known.heard = report.at, report.at + known.offset
            known.queue_seconds = report.queue_seconds
            for model in known.loaded.keys() - report.loaded.keys():
                self._holders[model].discard(report.replica)
            for model in report.loaded.keys() - known.loaded.keys():
                self._holders[model].add(report.replica)
            known.loaded = report.loaded
            self._loading |= report.loaded
            for sent in list(known.uncounted):
                if sent.arrived is not None and sent.arrived <= known.heard:
                    del known.uncounted[sent]

    def is_loaded(self, model: str) -> bool:
        """Whether a replica on offer is known to have the model ready."""
        with self._lock:
            return bool(self._holders.get(model))

    def queue_seconds(self, replica: str) -> float:
        """Device seconds that a replica is expected to hold now."""
        with self._lock:
            return self._queue_seconds(self._known[replica], self._clock())

    @property
    def known(self) -> int:
        """How many replicas are remembered."""
        return len(self._known)

    def _rank(self, name: str, model: str, now: float) -> tuple[float, int]:
        known = self._known[name]
        seconds = self._queue_seconds(known, now)
        if model not in known.loaded and all(s.model != model for s in known.under_way):
            seconds += self._loading.get(model, ASSUMED_LOADING_SECONDS)
        return seconds, len(known.under_way)

    def _queue_seconds(self, known: _Known, now: float) -> float:
        left = max(0.0, known.queue_seconds - max(0.0, now - known.heard))
        return left + sum(sent.seconds for sent in known.uncounted)

    def _compared(self, model: str) -> list[str]:
        """As many as are compared, in any order; half of them have the model, if so many do."""
        offered = self._offered
        if len(offered) <= self._choices:
            return self._draw.sample(offered, len(offered))
        holders = self._holders.get(model, set())
        picked: list[str] = []
        if len(holders) < len(offered):
            picked = self._draw.sample(sorted(holders), min(len(holders), self._choices // 2))
        others = self._draw.sample(offered, self._choices - len(picked))
        return list(dict.fromkeys([*picked, *others]))

    def _take_back(self, sent: Sent) -> None:
        if sent.replica is not None and sent.replica in self._known:
            known = self._known[sent.replica]
            known.under_way.pop(sent, None)
            known.uncounted.pop(sent, None)
        sent.replica = sent.arrived = None


def pack_report(report: Report) -> dict[str, Any]:
    """A report as plain values."""
    return {
        "replica": report.replica,
        "at": report.at,
        "queue_seconds": report.queue_seconds,
        "loaded": dict(report.loaded),
    }


def unpack_report(plain: Mapping[str, Any]) -> Report:
    """The inverse of `pack_report`."""
    return Report(**plain)
