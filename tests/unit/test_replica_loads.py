"""Which replica a call goes to."""

from __future__ import annotations

import pickle
import random

from services.serving.errand import Errand
from services.serving.replica_loads import (
    ASSUMED_LOADING_SECONDS,
    ReplicaLoads,
    Report,
    Sent,
    pack_report,
    unpack_report,
)

MODEL = "m"


class Clock:
    """Seconds that move when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class View:
    """Loads of some replicas that have the model, whose clocks differ from this one."""

    def __init__(self, count: int, choices: int = 8, loaded: str = MODEL) -> None:
        self.clock = Clock()
        self.loads = ReplicaLoads(self.clock, random.Random(0), choices)
        self.names = [f"r{i}" for i in range(count)]
        self.loads.offer(self.names)
        for name in self.names:
            self.says(name, 0.0, loaded=loaded)

    def says(self, name: str, seconds: float, *, ago: float = 0.0, loaded: str = MODEL) -> None:
        theirs = self.clock() - 500.0 - ago
        self.loads.hear(Report(name, theirs, seconds, {loaded: 3.0} if loaded else {}))

    def send(self, seconds: float, model: str = MODEL) -> Sent:
        sent = Sent(model, seconds)
        self.loads.assign(sent, self.loads.ranked(model)[0])
        return sent

    def held(self) -> list[float]:
        return [self.loads.queue_seconds(name) for name in self.names]


def test_calls_go_where_least_device_time_is_queued_not_where_fewest_calls_are() -> None:
    view = View(2)
    large = view.send(10.0)
    small = [view.send(1.0) for _ in range(5)]
    assert {sent.replica for sent in small} == set(view.names) - {large.replica}
    assert sorted(view.held()) == [5.0, 10.0]


def test_what_was_just_sent_counts_before_the_replica_has_said_anything() -> None:
    view = View(4)
    assert {view.send(1.0).replica for _ in range(4)} == set(view.names)


def test_what_a_replica_holds_passes_with_time_and_never_below_nothing() -> None:
    view = View(1)
    view.clock.now += 1
    view.says("r0", 5.0)
    view.clock.now += 3
    assert view.held() == [2.0]
    view.clock.now += 10
    assert view.held() == [0.0]


def test_a_report_takes_the_place_of_what_had_arrived_before_it_alone() -> None:
    view = View(1)
    there, later = view.send(4.0), view.send(2.0)
    view.loads.arrived(there, "r0")
    view.clock.now += 1
    view.says("r0", 3.5)
    assert view.held() == [3.5 + 2.0]
    view.loads.arrived(later, "r0")
    view.clock.now += 1
    view.says("r0", 4.5)
    assert view.held() == [4.5]


def test_a_report_that_was_long_on_its_way_counts_from_when_it_was_said() -> None:
    view = View(1)
    view.clock.now += 10
    view.says("r0", 5.0, ago=2.0)
    assert view.held() == [3.0]
    view.says("r0", 50.0, ago=4.0)
    assert view.held() == [3.0], "an older report was taken for news"


def test_a_call_that_is_over_counts_no_more_and_one_that_moves_counts_once() -> None:
    view = View(2)
    sent = view.send(4.0)
    other = next(name for name in view.names if name != sent.replica)
    view.loads.arrived(sent, other)
    assert view.loads.queue_seconds(other) == 4.0
    assert sum(view.held()) == 4.0
    view.loads.done(sent)
    assert view.held() == [0.0, 0.0]
    view.loads.done(sent)


def test_a_replica_that_has_the_model_is_preferred_by_the_time_that_loading_takes() -> None:
    view = View(2, loaded="")
    view.clock.now += 1
    view.says("r0", 2.9)
    assert view.loads.ranked(MODEL)[0] == "r0", "loading is known to take 3 s"
    view.clock.now += 0.1
    view.says("r0", 3.1)
    assert view.loads.ranked(MODEL)[0] == "r1"


def test_where_loading_is_unknown_it_is_assumed_and_happens_once() -> None:
    view = View(3, loaded="")
    first = view.send(0.1, "new")
    second = view.send(0.1, "new")
    assert second.replica == first.replica, "two replicas load what one is loading already"
    far = view.send(ASSUMED_LOADING_SECONDS + 1, "new")
    assert far.replica == first.replica
    assert view.send(0.1, "new").replica != first.replica


def test_a_few_of_many_are_compared_and_those_with_the_model_are_among_them() -> None:
    view = View(100, choices=4, loaded="")
    view.clock.now += 1
    view.says("r77", 0.0)
    for _ in range(20):
        ranked = view.loads.ranked(MODEL)
        assert 4 <= len(set(ranked)) + 1 <= 5
        assert ranked[0] == "r77"


def test_replicas_that_are_no_more_are_forgotten() -> None:
    view = View(3)
    sent = view.send(1.0)
    view.loads.offer(["r9"])
    view.says("r0", 5.0)
    assert view.loads.ranked(MODEL) == ["r9"]
    assert view.loads.known <= 1
    view.loads.done(sent)
    view.loads.arrived(sent, "r0")
    assert view.loads.queue_seconds("r9") == 0.0


def test_an_errand_becomes_the_plain_call_on_its_way() -> None:
    errand = Errand({"model": MODEL}, Sent(MODEL, 1.0), ReplicaLoads())
    there = pickle.loads(pickle.dumps(errand))  # noqa: S301 - our own bytes
    assert type(there) is dict
    assert there == {"model": MODEL}


def test_a_report_crosses_as_plain_values() -> None:
    report = Report("r0", 1.5, 2.5, {"m": 3.0})
    assert unpack_report(pack_report(report)) == report
