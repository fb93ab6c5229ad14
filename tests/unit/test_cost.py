"""What a batch costs: curves, their knee, what is learned, what is measured at load."""

from __future__ import annotations

import time
from threading import Lock

import pytest

from services.runtime.cost import CostCurve, Costs, measure
from tests.engines import ready
from tests.scripted import ScriptedEngine
from tests.tiny_models import MODELS


def test_between_measured_sizes_a_curve_is_a_line() -> None:
    curve = CostCurve({1: 1.0, 4: 2.5, 8: 3.0})
    found = [curve.seconds(rows) for rows in (1, 2, 4, 6, 8)]
    assert found == pytest.approx([1, 1.5, 2.5, 2.75, 3])


def test_beyond_the_largest_measured_size_every_row_costs_as_much_as_there() -> None:
    assert CostCurve({1: 1.0, 8: 4.0}).seconds(24) == pytest.approx(12)


def test_below_the_smallest_measured_size_nothing_gets_cheaper() -> None:
    assert CostCurve({2: 1.0, 8: 4.0}).seconds(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("points", "knee"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, 1),
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 8),
        ({1: 5.5, 8: 24.0, 32: 70.0, 64: 139.0}, 32),
        ({1: 1.0, 2: 1.2, 4: 2.4, 8: 4.7}, 2),
        ({1: 1.0, 2: 1.1, 4: 4.4}, 2),
    ],
)
def test_the_knee_is_where_another_row_no_longer_makes_rows_cheaper(
    points: dict[int, float], knee: int
) -> None:
    curve = CostCurve(points)
    assert curve.knee() == knee
    assert curve.row_seconds() == pytest.approx(points[knee] / knee)


def test_a_curve_follows_hardware_that_became_slower() -> None:
    curve = CostCurve({1: 0.01, 8: 0.02})
    for _ in range(400):
        curve.observe(8, 0.06)
        curve.observe(4, 0.04)
    assert curve.seconds(8) == pytest.approx(0.06, rel=0.1)
    assert curve.seconds(4) == pytest.approx(0.04, rel=0.2)


def test_one_outlier_moves_a_curve_by_a_few_percent_at_most() -> None:
    for seconds in (1e-9, 1000.0):
        curve = CostCurve({1: 0.01, 8: 0.02})
        curve.observe(8, seconds)
        assert curve.seconds(8) == pytest.approx(0.02, rel=0.06)
        assert curve.seconds(1) == pytest.approx(0.01, rel=0.06)


def test_a_slow_moment_does_not_move_the_knee() -> None:
    curve = CostCurve({16: 16 * 0.0024, 32: 32 * 0.0022, 64: 64 * 0.0022})
    for _ in range(60):
        curve.observe(32, 1.2 * 32 * 0.0022)
    assert curve.seconds(32) == pytest.approx(1.2 * 32 * 0.0022, rel=0.02)
    assert curve.knee() == 32


def test_what_was_never_measured_is_guessed_and_then_learned() -> None:
    costs = Costs()
    curve = costs.curve("step", "unheard of")
    assert curve.seconds(1) > 0
    assert curve.knee() > 1, "rows that nothing was measured of would never share an evaluation"
    curve.observe(1, 10)
    assert costs.curve("step", "unheard of").seconds(1) == curve.seconds(1)


@pytest.mark.parametrize("family", MODELS)
def test_every_kind_of_work_that_a_family_rehearses_is_measured(family: str) -> None:
    engine = ready(MODELS[family]())
    lock = Lock()
    costs = measure(engine, engine.rehearsal(), lock)
    assert not lock.locked()
    for job in engine.rehearsal():
        load = engine.workload(job)
        wanted = [("decode", load.decode)] + ([("step", load.step)] if load.evaluations else [])
        for stage, key in wanted:
            points = costs.curve(stage, key).points
            assert set(points) != {1, 8}, "a guess, not a measurement"
            assert all(seconds > 0 for seconds in points.values())


def test_measuring_holds_the_device_for_one_evaluation_at_a_time() -> None:
    lock = Lock()
    held: list[bool] = []
    engine = ScriptedEngine(lambda stage, ids: held.append(lock.locked()))
    measure(engine, engine.rehearsal(), lock)
    assert held
    assert all(held)


def test_measuring_stops_where_larger_batches_no_longer_pay() -> None:
    engine = ScriptedEngine()
    engine.hook = lambda stage, ids: _spin(len(ids) ** 2 * 2e-4)
    measure(engine, engine.rehearsal(), Lock())
    assert max(len(ids) for ids in engine.stages("step")) <= 8


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
