"""The loop under load: what it refuses, what it lets go, and what it never starves."""

from __future__ import annotations

import time
from threading import Lock

import pytest

from services.core.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    QueueFull,
)
from services.runtime.loop import Loop
from services.runtime.ticket import Ticket
from tests.scripted import (
    PATIENCE,
    Gate,
    ScriptedEngine,
    bytes_alone,
    error_of,
    pixel_bytes,
    scripted,
    until,
    work,
)


def test_a_full_queue_is_refused_at_once_while_work_goes_on(gate: Gate) -> None:
    loop = Loop(Lock(), queue_seconds=10.0)
    model = scripted(ScriptedEngine(gate), seconds=1.0, knee=1)
    (running,) = loop.submit(model, [work("a", steps=9)])
    gate.wait()
    for _ in range(5):
        with pytest.raises(QueueFull) as caught:  # while the gate holds the work up
            loop.submit(model, [work("b", steps=2)])
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
    assert loop.status().trajectories == 1
    gate.open()
    running.future.result(PATIENCE)
    loop.submit(model, [work("b", steps=2)])[0].future.result(PATIENCE)
    loop.close()


def test_work_that_is_done_makes_room_step_by_step(gate: Gate) -> None:
    loop = Loop(Lock(), queue_seconds=10.0)
    model = scripted(ScriptedEngine(gate), seconds=1.0, knee=1)
    loop.submit(model, [work("a", steps=9)])
    gate.wait()
    assert loop.status().queue_seconds == pytest.approx(10)
    reserved = []
    for _ in range(4):
        gate.advance()
        reserved.append(loop.status().queue_seconds)
    assert reserved == pytest.approx([9, 8, 7, 6], rel=0.05)
    loop.submit(model, [work("b", steps=2)])
    gate.open()
    loop.close(drain_seconds=PATIENCE)


def test_a_deadline_that_cannot_be_met_is_refused_at_once(loop: Loop, gate: Gate) -> None:
    model = scripted(ScriptedEngine(gate), seconds=0.5, knee=1)
    loop.submit(model, [work("a", steps=4)])
    gate.wait()
    with pytest.raises(DeadlineUnmeetable):  # while the gate holds the work up
        loop.submit(model, [work("b", steps=9, deadline=time.monotonic() + 4)])
    assert loop.status().trajectories == 1


def test_a_row_whose_deadline_has_passed_is_let_go_with_its_place(loop: Loop, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    model = scripted(engine)
    deadline = time.monotonic() + 1
    (late,) = loop.submit(model, [work("late", steps=50, deadline=deadline)])
    job = work("mate", steps=3)
    (mate,) = loop.submit(model, [job])
    gate.wait()
    until(lambda: time.monotonic() > deadline)
    gate.open()
    assert isinstance(error_of(late), DeadlineExceeded)
    assert pixel_bytes(mate) == bytes_alone(job)
    assert sum("late" in ids for ids in engine.stages("step")) <= 1


def test_a_row_without_a_deadline_is_never_dropped_for_being_late(loop: Loop, gate: Gate) -> None:
    model = scripted(ScriptedEngine(gate), seconds=1e-6)
    (ticket,) = loop.submit(model, [work("a", steps=3)])
    gate.wait()
    until(lambda: time.monotonic() > ticket.deadline)
    gate.open()
    ticket.future.result(PATIENCE)


def test_a_patient_row_ends_under_a_flood_of_urgent_ones(loop: Loop) -> None:
    engine = ScriptedEngine(lambda stage, ids: time.sleep(0.002))
    model = scripted(engine, knee=1, keys=("shared", "flood"))
    far = time.monotonic() + 1000
    (patient,) = loop.submit(model, [work("patient", steps=1, deadline=far)])
    served = 0
    flood: list[Ticket] = []
    while not patient.future.done():
        assert time.monotonic() < far - 1000 + PATIENCE
        flood = [ticket for ticket in flood if not ticket.future.done()]
        while len(flood) < 4:
            served += 1
            soon = time.monotonic() + 5
            flood += loop.submit(model, [work(f"{served}", key="flood", deadline=soon)])
        time.sleep(0.001)
    patient.future.result(0)
    assert served > 50
