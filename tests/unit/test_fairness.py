"""A tenant that floods a device harms nobody but itself: simulated with the real batch former."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count

import pytest
import torch

from services.core.errors import DeadlineUnmeetable, QueueFull
from services.core.trajectory import Trajectory, Workload
from services.runtime.admission import admit
from services.runtime.batching import form_batch
from services.runtime.cost import CostCurve, Costs
from services.runtime.fairness import REMEMBERED_SECONDS, FairShare
from services.runtime.loop import Loop
from services.runtime.registry import LoadedModel
from services.runtime.ticket import Ticket
from tests.scripted import PATIENCE, Gate, ScriptedEngine, scripted, work

CPU_CURVE = {1: 0.0052, 8: 0.022, 32: 0.073}
"""Seconds by rows, measured for the built-in transformer on two cores: another row costs."""
GPU_CURVE = {1: 0.02, 8: 0.021, 32: 0.025, 64: 0.05}
"""A device that few rows do not fill: another row is nearly free."""
DEADLINE_FACTOR = 5.0
EVALUATIONS = 8
LOAD = 0.25
"""Of the device's time that the light tenant asks for, when it is alone."""
FLOODED_SECONDS = 0.3
"""How long a flood's evaluation is held: longer than two others take, however slow the machine."""
LEFT = 0.6
"""Of the time that a flood is on, it gets at least so much: the light tenant needs no more."""

Arrival = tuple[float, str, int, float]
"""When, whose, how many evaluations, and the tenant's weight."""


def model(points: dict[int, float]) -> LoadedModel:
    here = scripted(ScriptedEngine(), knee=8)
    here.costs = Costs(
        {("step", "shared"): CostCurve(points), ("decode", "image"): CostCurve(points)}
    )
    return here


def ticket(
    name: str, here: LoadedModel, now: float, *, tenant: str, evaluations: int, weight: float = 1.0
) -> Ticket:
    """A row as the loop makes it, its deadline the usual multiple of its solo latency."""
    step, decode = (here.costs.curve(*k) for k in (("step", "shared"), ("decode", "image")))
    found = Ticket(
        job=replace(work(name), tenant=tenant, weight=weight),
        model=here,
        workload=Workload("image", "shared", evaluations, 1),
        submitted=now,
        deadline=now,
        binding=False,
        step_work=step.row_seconds(),
        decode_work=decode.row_seconds(),
        step_solo=step.seconds(1),
        decode_solo=decode.seconds(1),
        touched=now,
    )
    found.deadline = now + DEADLINE_FACTOR * found.remaining_solo
    return found


class Device:
    """A loop without threads or clocks: time is what the cost curve says that evaluations take."""

    def __init__(
        self, points: dict[int, float], *, queue_seconds: float = 2.0, fair: bool = True
    ) -> None:
        self.model = model(points)
        self.now = 0.0
        self.queue_seconds = queue_seconds
        self.shares = FairShare()
        self.fair = fair
        self.waiting: list[Ticket] = []
        self.latencies: dict[str, list[float]] = {}
        self.used: dict[str, float] = {}
        self.refused: dict[str, int] = {}
        self.batches: list[list[str]] = []

    def run(self, arrivals: Iterable[Arrival], until: float) -> Device:
        """Carry out what arrives until some moment."""
        coming = sorted(arrivals)
        place = 0
        while self.now < until:
            while place < len(coming) and coming[place][0] <= self.now:
                self._arrive(*coming[place])
                place += 1
            if not self.waiting:
                if place == len(coming):
                    break
                self.now = coming[place][0]
                continue
            self._evaluate()
        return self

    def _arrive(self, at: float, tenant: str, evaluations: int, weight: float) -> None:
        new = ticket(
            f"{tenant}-{at}", self.model, at, tenant=tenant, evaluations=evaluations, weight=weight
        )
        backlog = sum(t.remaining_work for t in self.waiting)
        try:
            admit([new], self.waiting, backlog, self.now, queue_seconds=self.queue_seconds)
        except QueueFull:
            self.refused[tenant] = self.refused.get(tenant, 0) + 1
            return
        self.shares.arrived([new], self.now)
        self.waiting.append(new)

    def _evaluate(self) -> None:
        batch = form_batch(self.waiting, self.now, self.shares if self.fair else None)
        stage = batch[0].stage
        seconds = 0.0
        if stage != "prepare":
            curve = self.model.costs.curve(stage, batch[0].key)
            seconds = curve.seconds(len(batch))
            self.batches.append([t.job.tenant for t in batch])
        self.now += seconds
        self.shares.served(batch, [seconds / len(batch)] * len(batch))
        if stage != "decode":
            advance(batch, self.now)
        for row in batch:
            tenant = row.job.tenant
            self.used[tenant] = self.used.get(tenant, 0.0) + seconds / len(batch)
            if stage == "decode":
                self.waiting.remove(row)
                self.shares.left(row, self.now)
                self.latencies.setdefault(tenant, []).append(self.now - row.submitted)


def poisson(
    tenant: str,
    rate: float,
    until: float,
    *,
    seed: int,
    evaluations: int = EVALUATIONS,
    weight: float = 1.0,
) -> Iterator[Arrival]:
    """Requests at random moments, so many a second."""
    source, at = random.Random(seed), 0.0
    while (at := at + source.expovariate(rate)) < until:
        yield at, tenant, evaluations, weight


def steady(
    tenant: str,
    rate: float,
    begin: float,
    until: float,
    *,
    evaluations: int = EVALUATIONS,
    weight: float = 1.0,
) -> Iterator[Arrival]:
    """Requests at fixed intervals."""
    for i in count():
        if (at := begin + i / rate) >= until:
            return
        yield at, tenant, evaluations, weight


def p99(latencies: Sequence[float]) -> float:
    return sorted(latencies)[int(0.99 * len(latencies))]


def light(points: dict[int, float], requests: int) -> tuple[list[Arrival], float, float]:
    """A light tenant's requests, the time that they span, and the solo latency of one."""
    solo = (EVALUATIONS + 1) * points[1]
    end = requests * solo / LOAD
    return list(poisson("mine", LOAD / solo, end, seed=3, evaluations=EVALUATIONS)), end, solo


Flood = Callable[[float, float], Iterable[Arrival]]

FLOODS: dict[str, tuple[float, Flood]] = {
    "from the middle on": (0.5, lambda solo, end: steady("flood", 5 / solo, end / 2, end)),
    "random": (1.0, lambda solo, end: poisson("flood", 4 / solo, end, seed=5)),
    "on and off": (
        0.3,
        lambda solo, end: (
            arrival
            for begin in range(0, int(end), 10)
            for arrival in steady("flood", 4 / solo, begin, min(end, begin + 3.0))
        ),
    ),
    "short requests": (
        0.1,
        lambda solo, end: steady("flood", 16 / solo, 1.0, 1.0 + end / 10, evaluations=1),
    ),
    "long requests": (1.0, lambda solo, end: steady("flood", 1 / solo, 1.0, end, evaluations=80)),
}
"""The part of the time that each is on; its arrivals, by the light tenant's solo latency and the
end of the time."""


def check_flood(points: dict[int, float], flood: str, requests: int) -> None:
    mine, end, solo = light(points, requests)
    on, arrivals = FLOODS[flood]
    alone = Device(points).run(mine, end)
    beside = Device(points).run([*mine, *arrivals(solo, end)], end)
    assert "mine" not in beside.refused
    assert len(beside.latencies["mine"]) >= len(alone.latencies["mine"]) - 1
    assert p99(beside.latencies["mine"]) <= 1.2 * p99(alone.latencies["mine"])
    assert beside.used["flood"] > LEFT * on * end


CURVES = pytest.mark.parametrize("points", [CPU_CURVE, GPU_CURVE], ids=["cpu", "gpu"])


@CURVES
def test_a_flood_raises_nobody_elses_p99_by_more_than_a_fifth(points: dict[int, float]) -> None:
    check_flood(points, "long requests", 100)


def test_without_shares_it_would() -> None:
    mine, end, solo = light(CPU_CURVE, 100)
    alone = Device(CPU_CURVE).run(mine, end)
    flood = FLOODS["long requests"][1](solo, end)
    beside = Device(CPU_CURVE, fair=False).run([*mine, *flood], end)
    assert p99(beside.latencies["mine"]) > 2 * p99(alone.latencies["mine"])


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes of simulation on a machine that others use
@pytest.mark.parametrize("flood", FLOODS)
@CURVES
def test_no_kind_of_flood_does(points: dict[int, float], flood: str) -> None:
    check_flood(points, flood, 150)


def test_one_that_begins_to_flood_shares_batches_row_for_row() -> None:
    here, shares = model(CPU_CURVE), FairShare()
    mine = ticket("mine", here, 0.0, tenant="mine", evaluations=8)
    flood = [ticket(f"{i}", here, 0.0, tenant="flood", evaluations=8) for i in range(10)]
    shares.arrived([mine, *flood], 0.0)
    assert list(form_batch([*flood, mine], 0.0, shares)) == [mine, flood[0]]


def test_a_light_tenants_batches_are_whole_once_the_flood_is_gone() -> None:
    here, shares = model(CPU_CURVE), FairShare()
    gone = ticket("gone", here, 0.0, tenant="flood", evaluations=8)
    shares.arrived([gone], 0.0)
    shares.served([gone], [1.0])
    shares.left(gone, 1.0)
    mine = [ticket(f"{i}", here, 30.0, tenant="mine", evaluations=8) for i in range(3)]
    for row in mine:
        shares.arrived([row], 30.0)
        shares.served([row], [1.0])
        shares.left(row, 31.0)
    shares.arrived(mine, 40.0)
    assert list(form_batch(mine, 40.0, shares)) == mine


def test_one_tenant_alone_is_served_as_if_there_were_no_shares() -> None:
    source, shares = random.Random(1), FairShare()
    here = model(CPU_CURVE)
    rows = [
        ticket(f"{i}", here, i / 10, tenant="one", evaluations=source.randint(1, 30))
        for i in range(40)
    ]
    shares.arrived(rows, 4.0)
    now = 4.0
    while rows:
        batch = form_batch(rows, now, shares)
        assert list(batch) == list(form_batch(rows, now))
        advance(batch, now := now + 0.01)
        shares.served(batch, [0.01 / len(batch)] * len(batch))
        rows = [row for row in rows if row.trajectory is None or not row.trajectory.finished]


def advance(batch: Sequence[Ticket], now: float) -> None:
    """Do what an engine would do with a batch."""
    for row in batch:
        row.touched = now
        if row.trajectory is None:
            row.trajectory = Trajectory(
                job=row.job, workload=row.workload, x=torch.zeros(1), generator=torch.Generator()
            )
        else:
            row.trajectory.index += 1


def used_by(arrivals: Iterable[Arrival], until: float) -> dict[str, float]:
    return Device(CPU_CURVE).run(arrivals, until).used


def test_two_floods_get_half_each_whatever_they_send() -> None:
    many = steady("many", 120.0, 0.0, 8.0, evaluations=1)
    large = steady("large", 3.0, 0.0, 8.0, evaluations=100)
    used = used_by([*many, *large], 8.0)
    assert used["many"] == pytest.approx(used["large"], rel=0.15)


def test_floods_share_by_weight() -> None:
    usual = steady("usual", 50.0, 0.0, 8.0, evaluations=EVALUATIONS)
    urgent = steady("urgent", 50.0, 0.0, 8.0, evaluations=EVALUATIONS, weight=4.0)
    used = used_by([*usual, *urgent], 8.0)
    assert used["urgent"] / used["usual"] == pytest.approx(4.0, rel=0.25)


def test_tenants_of_little_work_each_share_batches_as_one_would() -> None:
    def batches(tenants: int) -> list[list[str]]:
        arrivals = [
            arrival
            for i in range(16)
            for arrival in steady(f"{i % tenants}", 2.2, i / 20, 12.0, evaluations=EVALUATIONS)
        ]
        return Device(CPU_CURVE).run(arrivals, 12.0).batches

    def rows(found: list[list[str]]) -> float:
        return sum(map(len, found)) / len(found)

    assert rows(batches(16)) >= 0.8 * rows(batches(1))


def test_a_full_queue_has_room_for_whoever_has_little_in_it() -> None:
    here = model(CPU_CURVE)

    def new(name: str, tenant: str, evaluations: int = 400) -> Ticket:
        return ticket(name, here, 0.0, tenant=tenant, evaluations=evaluations)

    waiting = [new(f"{i}", "flood") for i in range(10)]
    backlog = sum(t.remaining_work for t in waiting)
    with pytest.raises(QueueFull):
        admit([new("more", "flood", 8)], waiting, backlog, 0.0, queue_seconds=backlog)
    admit([new("mine", "mine", 8)], waiting, backlog, 0.0, queue_seconds=backlog)
    several = [new(f"mine {i}", "mine") for i in range(6)]
    with pytest.raises(QueueFull):
        admit(several, waiting, backlog, 0.0, queue_seconds=backlog)


def test_a_deadline_is_met_beside_a_flood_of_more_urgent_work() -> None:
    here = model(CPU_CURVE)
    flood = [ticket(f"{i}", here, 0.0, tenant="flood", evaluations=8) for i in range(200)]
    mine = ticket("mine", here, 0.0, tenant="mine", evaluations=8)
    mine.deadline, mine.binding = 0.2, True
    backlog = sum(t.remaining_work for t in flood)
    admit([mine], flood, backlog, 0.0, queue_seconds=60.0)
    own = ticket("own", here, 0.0, tenant="flood", evaluations=8)
    own.deadline, own.binding = 0.5, True
    with pytest.raises(DeadlineUnmeetable):
        admit([own], flood, backlog, 0.0, queue_seconds=60.0)


def test_tenants_that_are_gone_are_forgotten() -> None:
    here, shares = model(CPU_CURVE), FairShare()
    steadily = ticket("s", here, 0.0, tenant="steady", evaluations=8)
    shares.arrived([steadily], 0.0)
    for i in range(1000):
        row = ticket(f"{i}", here, i, tenant=f"{i}", evaluations=8)
        shares.arrived([row], float(i))
        shares.served([row], [0.01])
        shares.left(row, float(i))
        shares.served([steadily], [1.0])
    assert shares.known < 2 * REMEMBERED_SECONDS + 5


def test_the_loop_turns_to_another_tenants_row_at_the_next_evaluation(loop: Loop) -> None:
    gate = Gate("step")
    engine = ScriptedEngine(gate)
    here = scripted(engine, seconds=1.0, knee=1)
    loop.submit(here, [replace(work(f"{i}", steps=4), tenant="flood") for i in range(5)])
    gate.wait()
    (mine,) = loop.submit(here, [replace(work("mine", steps=2), tenant="mine")])
    time.sleep(FLOODED_SECONDS)  # of the device, all on the flood's account
    gate.advance()
    assert engine.stages("step")[-1] == ("mine",)
    gate.advance()
    assert engine.stages("step")[-1] == ("mine",)
    gate.open()
    assert mine.future.result(PATIENCE).device_seconds > 0
