"""The simulator against closed forms of queueing theory, and its two kinds of replica."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from loadtests.simulator.events import Events
from loadtests.simulator.fleet import Fleet, MakeReplica, Scaling
from loadtests.simulator.requests import Finished, Network, Request
from loadtests.simulator.routing import ROUTERS
from loadtests.simulator.sharing import SharingReplica
from loadtests.simulator.stepping import SteppingReplica
from services.runtime.cost import CostCurve

ONE_BY_ONE = Network(CostCurve({1: 1.0, 2: 2.0}), CostCurve({1: 1.0, 2: 2.0}))
"""No gain from batches: one evaluation a second, of one row."""
BATCHING = Network(CostCurve({1: 0.05, 4: 0.05, 8: 0.1}), CostCurve({1: 1e-4, 8: 8e-4}))
MIX = [(1, 10), (1, 20), (1, 50), (4, 50)]


def poisson(
    rate: float, count: int, draw_kind: Callable[[random.Random], tuple[int, int]], seed: int = 1
) -> Iterator[Request]:
    draw, now = random.Random(seed), 0.0
    for _ in range(count):
        now += draw.expovariate(rate)
        n, steps = draw_kind(draw)
        yield Request(now, n, steps)


def mixed(draw: random.Random) -> tuple[int, int]:
    return draw.choices(MIX, [50, 30, 15, 5])[0]


def mean_seconds(make: MakeReplica, load: float, count: int = 4000) -> float:
    fleet = Fleet(ONE_BY_ONE, make, replicas=1)
    tally = fleet.run(poisson(load, count, lambda draw: (1, 0)))
    assert len(tally.latency) == count
    return float(np.mean(tally.latency))


@pytest.mark.parametrize("load", [0.6])
def test_equal_requests_one_by_one_wait_as_in_a_queue_of_kind_m_d_1(load: float) -> None:
    expected = 1 + load / (2 * (1 - load))
    assert mean_seconds(SteppingReplica, load) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("load", [0.5])
def test_exponential_requests_one_by_one_wait_as_in_a_queue_of_kind_m_m_1(load: float) -> None:
    draw = random.Random(5)

    def make(events: Events, network: Network, finished: Finished) -> SteppingReplica:
        return SteppingReplica(events, network, finished, lambda s: draw.expovariate(1 / s))

    assert mean_seconds(make, load) == pytest.approx(1 / (1 - load), rel=0.1)


@pytest.mark.parametrize("load", [0.3, 0.5])
def test_shared_processors_are_insensitive_to_how_sizes_are_spread(load: float) -> None:
    """M/G/1 processor sharing: the mean is s / (1 - load), whatever the distribution."""
    fleet = Fleet(ONE_BY_ONE, SharingReplica, replicas=1)
    sizes = [(1, 0), (1, 9)]
    tally = fleet.run(poisson(load / 5.5, 8000, lambda draw: draw.choice(sizes)))
    assert float(np.mean(tally.latency)) == pytest.approx(5.5 / (1 - load), rel=0.08)


def test_a_lone_request_takes_its_solo_time_in_both_kinds_of_replica() -> None:
    for make in (SteppingReplica, SharingReplica):
        tally = Fleet(BATCHING, make, replicas=1).run([Request(1.0, 1, 20)])
        assert tally.latency == pytest.approx([20 * 0.05], rel=0.01)


def test_a_full_replica_does_what_its_curve_allows_in_both_kinds() -> None:
    for make in (SteppingReplica, SharingReplica):
        fleet = Fleet(BATCHING, make, replicas=1)
        fleet.run([Request(0.0, 1, 20) for _ in range(40)])
        assert fleet.events.now == pytest.approx(40 * 20 / 4 * 0.05, rel=0.05)


def test_both_kinds_of_replica_agree_about_a_fleet() -> None:
    found = []
    for make in (SteppingReplica, SharingReplica):
        fleet = Fleet(BATCHING, make, replicas=4)
        found.append(fleet.run(poisson(8.0, 400, mixed)).summary())
    assert found[0]["utilisation"] == pytest.approx(found[1]["utilisation"], rel=0.15)
    assert found[0]["p50_slowdown"] == pytest.approx(found[1]["p50_slowdown"], rel=0.25)


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_every_router_serves_every_request_once(router: str) -> None:
    fleet = Fleet(BATCHING, SharingReplica, replicas=5, router=router, gateways=2)
    assert fleet.run(poisson(5.0, 400, mixed)).summary()["requests"] == 400


def test_the_same_seed_gives_the_same_day() -> None:
    days = [
        Fleet(BATCHING, SharingReplica, replicas=4, gateways=2, seed=3).run(poisson(9, 500, mixed))
        for _ in range(2)
    ]
    assert days[0].latency == days[1].latency


def test_routing_by_device_seconds_serves_large_and_small_requests_better() -> None:
    def late(router: str) -> float:
        fleet = Fleet(BATCHING, SteppingReplica, replicas=4, router=router)
        return float(fleet.run(poisson(13.0, 500, mixed)).summary()["p99_slowdown"])

    assert late("device_seconds") < 0.95 * min(late("ongoing_requests"), late("round_robin"))


def test_a_fleet_grows_with_what_is_asked_and_shrinks_again() -> None:
    scaling = Scaling(least=1, most=20, start_seconds=5.0, down_delay=30.0)
    fleet = Fleet(BATCHING, SharingReplica, replicas=1, scaling=scaling)
    tally = fleet.run(poisson(20.0, 2500, mixed), until=2000.0)
    summary = tally.summary()
    assert summary["requests"] == 2500
    assert 5 <= summary["most_replicas"] <= 20
    assert tally.replicas[-1][1] == 1
    assert summary["scale_ups"] >= 1
    assert summary["scale_downs"] >= 1
    assert 0.3 < summary["utilisation"] <= 1.0
