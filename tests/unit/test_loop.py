"""The loop: who steps with whom, when rows come and go, and what it says of itself."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock

from services.core.errors import (
    AtelierError,
    Canceled,
    Unavailable,
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


def test_a_job_comes_out_as_its_engine_alone_makes_it(loop: Loop) -> None:
    job = work("a", steps=5)
    (ticket,) = loop.submit(scripted(ScriptedEngine()), [job])
    assert pixel_bytes(ticket) == bytes_alone(job)


def test_a_newcomer_joins_at_the_next_evaluation(loop: Loop, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    model = scripted(engine)
    loop.submit(model, [work("a", steps=50)])
    gate.wait()
    gate.advance()
    loop.submit(model, [work("b", steps=50)])
    gate.advance()
    assert [set(ids) for ids in engine.stages("step")] == [{"a"}, {"a"}, {"a", "b"}]


def test_a_newcomer_joins_rows_that_are_more_urgent_than_itself(loop: Loop, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    model = scripted(engine)
    soon = time.monotonic() + 60
    loop.submit(model, [work("a", steps=50, deadline=soon)])
    gate.wait()
    loop.submit(model, [work("b", steps=50, deadline=soon + 1000)])
    gate.advance()
    assert set(engine.stages("step")[-1]) == {"a", "b"}


def test_a_withdrawn_row_is_gone_at_the_next_evaluation(loop: Loop, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    model = scripted(engine)
    jobs = [work(name, steps=4) for name in "abc"]
    tickets = loop.submit(model, jobs)
    gate.wait()
    gate.advance()
    loop.withdraw([tickets[1]])
    gate.advance()
    steps = [set(ids) for ids in engine.stages("step")]
    assert steps == [{"a", "b", "c"}, {"a", "b", "c"}, {"a", "c"}]
    assert isinstance(error_of(tickets[1]), Canceled)
    gate.open()
    for place in (0, 2):
        assert pixel_bytes(tickets[place]) == bytes_alone(jobs[place])


def test_a_row_that_is_withdrawn_while_it_waits_is_never_evaluated(loop: Loop, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    model = scripted(engine)
    loop.submit(model, [work("a", steps=3)])
    gate.wait()
    waiting = loop.submit(model, [work("b")])
    loop.withdraw(waiting)
    gate.open()
    assert isinstance(error_of(waiting[0]), Canceled)
    until(lambda: loop.status().trajectories == 0)
    assert all("b" not in ids for _, ids in engine.batches)


def test_the_next_request_after_a_withdrawal_is_unharmed(loop: Loop, gate: Gate) -> None:
    model = scripted(ScriptedEngine(gate))
    tickets = loop.submit(model, [work("a", steps=9), work("b", steps=9)])
    gate.wait()
    loop.withdraw(tickets)
    gate.open()
    job = work("c", steps=3)
    assert pixel_bytes(loop.submit(model, [job])[0]) == bytes_alone(job)


def test_withdrawing_what_is_done_or_withdrawn_changes_nothing(loop: Loop) -> None:
    model = scripted(ScriptedEngine())
    tickets = loop.submit(model, [work("a")])
    done = pixel_bytes(tickets[0])
    loop.withdraw(tickets)
    loop.withdraw(tickets)
    job = work("b")
    assert pixel_bytes(loop.submit(model, [job])[0]) == bytes_alone(job)
    assert pixel_bytes(tickets[0]) == done


def test_the_earliest_deadline_goes_first_whatever_came_first(loop: Loop, gate: Gate) -> None:
    engine = ScriptedEngine(gate)
    model = scripted(engine, knee=1)
    loop.submit(model, [work("first")])
    gate.wait()
    now = time.monotonic()
    tickets = [
        loop.submit(model, [work(f"{seconds}", deadline=now + seconds)])[0]
        for seconds in (500, 100, 400, 200, 300)
    ]
    gate.open()
    for ticket in tickets:
        ticket.future.result(PATIENCE)
    order = [ids[0] for ids in engine.stages("step")]
    assert order == ["first", "100", "200", "300", "400", "500"]


def test_a_row_may_be_ahead_of_its_mates(loop: Loop, gate: Gate) -> None:
    """Rows of different lengths and of any progress share evaluations, and each ends on its own."""
    engine = ScriptedEngine(gate)
    model = scripted(engine)
    jobs = [work("short", steps=2), work("long", steps=5), work("shorter", steps=1)]
    tickets = loop.submit(model, jobs)
    gate.wait()
    gate.open()
    for job, ticket in zip(jobs, tickets, strict=True):
        assert pixel_bytes(ticket) == bytes_alone(job)
    assert sorted(len(ids) for ids in engine.stages("step")) == [1, 1, 1, 2, 3]


def test_no_batch_exceeds_the_knee_and_guided_rows_count_two(loop: Loop) -> None:
    engine = ScriptedEngine()
    model = scripted(engine, knee=6)
    dice = random.Random(0)
    jobs = [work(f"{i}", steps=dice.randint(1, 6), rows_each=dice.randint(1, 2)) for i in range(60)]
    tickets = [loop.submit(model, [job])[0] for job in jobs]
    for ticket in tickets:
        ticket.future.result(PATIENCE)
    rows_each = {job.id: job.parameters.rows_each for job in jobs}
    sizes = [sum(rows_each[name] for name in ids) for ids in engine.stages("step")]
    assert max(sizes) == 6
    assert max(len(ids) for ids in engine.stages("decode")) <= 6


def test_two_models_take_turns_and_share_no_batch(loop: Loop) -> None:
    engines = [ScriptedEngine(name=name) for name in ("one", "two")]
    models = [scripted(engine) for engine in engines]
    jobs = [work(f"{i}", steps=4) for i in range(10)]
    tickets = [loop.submit(models[i % 2], [job])[0] for i, job in enumerate(jobs)]
    for job, ticket in zip(jobs, tickets, strict=True):
        assert pixel_bytes(ticket) == bytes_alone(job)
    for parity, engine in enumerate(engines):
        seen = {int(name) for _, ids in engine.batches for name in ids}
        assert seen == set(range(parity, 10, 2))


def test_a_hanging_evaluation_shows_in_the_heartbeat_and_blocks_no_question(
    loop: Loop, gate: Gate
) -> None:
    (ticket,) = loop.submit(scripted(ScriptedEngine(gate)), [work("a")])
    gate.wait()
    before = loop.status()
    until(lambda: loop.status().heartbeat_age > before.heartbeat_age + 0.6)
    assert loop.status().alive  # while the gate holds the work up
    gate.open()
    ticket.future.result(PATIENCE)
    until(lambda: loop.status().heartbeat_age < 0.6)


def test_an_idle_loop_keeps_giving_signs_of_life(loop: Loop) -> None:
    ages = []
    for _ in range(30):
        ages.append(loop.status().heartbeat_age)
        time.sleep(0.05)
    assert any(later < earlier for earlier, later in pairwise(ages))


def test_the_device_is_held_during_every_evaluation_and_only_then() -> None:
    lock = Lock()
    held: list[bool] = []
    loop = Loop(lock)
    engine = ScriptedEngine(lambda stage, ids: held.append(lock.locked()))
    (ticket,) = loop.submit(scripted(engine), [work("a", steps=2)])
    ticket.future.result(PATIENCE)
    assert held == [True] * 4
    until(lambda: not lock.locked())
    loop.close()


def test_step_counters_count_evaluations_by_model_and_stage(loop: Loop) -> None:
    model = scripted(ScriptedEngine(name="counted"))
    loop.submit(model, [work("a", steps=7)])[0].future.result(PATIENCE)
    until(lambda: loop.status().trajectories == 0)
    until(lambda: loop.status().evaluations.get("counted/decode") == 1)
    counted = loop.status().evaluations
    assert counted == {"counted/prepare": 1, "counted/step": 7, "counted/decode": 1}


def test_timings_add_up_to_the_time_it_took(loop: Loop) -> None:
    engine = ScriptedEngine(lambda stage, ids: time.sleep(0.02))
    model = scripted(engine, knee=1)
    started = time.monotonic()
    tickets = loop.submit(model, [work("a", steps=5), work("b", steps=5)])
    timings = [ticket.future.result(PATIENCE).timings for ticket in tickets]
    total = time.monotonic() - started
    for found in timings:
        assert found.prepare >= 0.02
        assert found.step >= 5 * 0.02
        assert found.decode >= 0.02
    sums = [t.queue + t.prepare + t.step + t.decode for t in timings]
    # Whoever ends last has waited for all the other's steps; a busy machine may wake us late.
    assert 12 * 0.02 <= max(sums) <= total
    assert max(t.queue for t in timings) >= 5 * 0.02


def test_closing_finishes_what_was_accepted_and_takes_nothing_new(gate: Gate) -> None:
    loop = Loop(Lock())
    model = scripted(ScriptedEngine(gate))
    jobs = [work("a", steps=4), work("b", steps=2)]
    tickets = loop.submit(model, jobs)
    gate.wait()
    closing = threading.Thread(target=loop.close, kwargs={"drain_seconds": PATIENCE})
    closing.start()

    def refuses() -> bool:
        try:
            late = loop.submit(model, [work("late")])
        except Unavailable as error:
            return error.retry_after is not None
        loop.withdraw(late)
        return False

    until(refuses)
    gate.open()
    closing.join(PATIENCE)
    for job, ticket in zip(jobs, tickets, strict=True):
        assert pixel_bytes(ticket) == bytes_alone(job)
    assert not loop.status().alive


def test_closing_without_time_lets_go_of_everything(gate: Gate) -> None:
    loop = Loop(Lock())
    tickets = loop.submit(scripted(ScriptedEngine(gate)), [work("a", steps=1000), work("b")])
    gate.wait()
    closing = threading.Thread(target=loop.close)
    closing.start()
    gate.open()
    closing.join(PATIENCE)
    assert [type(error_of(ticket)) for ticket in tickets] == [Canceled, Canceled]
    assert loop.status().queue_seconds == 0


def test_nothing_is_left_after_a_storm_of_requests_withdrawals_and_faults(loop: Loop) -> None:
    dice = random.Random(1)

    def fail(stage: str, ids: tuple[str, ...]) -> None:
        if any(name.startswith(f"fail {stage}") for name in ids):
            raise RuntimeError("as told")

    model = scripted(ScriptedEngine(fail), seconds=1e-5, knee=5)
    kinds = ["fine", "fine", "withdrawn", "fail prepare", "fail step", "fail decode", "tardy"]
    outcomes: list[tuple[str, Ticket]] = []

    def send(index: int) -> None:
        kind = kinds[index % len(kinds)]
        deadline = time.monotonic() + 0.01 if kind == "tardy" else None
        job = work(f"{kind} {index}", steps=dice.randint(0, 6), rows_each=1, deadline=deadline)
        try:
            tickets = loop.submit(model, [job])
        except AtelierError:
            return
        if kind == "withdrawn":
            time.sleep(dice.random() * 0.003)
            loop.withdraw(tickets)
        outcomes.append((kind, tickets[0]))

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(send, range(300)))
    for kind, ticket in outcomes:
        error = error_of(ticket)
        if kind == "fine":
            assert error is None
            assert pixel_bytes(ticket) == bytes_alone(ticket.job)
        elif kind in ("fail prepare", "fail decode"):
            assert error is not None
    until(lambda: loop.status().trajectories == 0)
    assert loop.status().queue_seconds == 0
    assert model.live == 0
    assert len(outcomes) > 200


def test_whoever_gave_up_waiting_disturbs_nobody(loop: Loop, gate: Gate) -> None:
    """A client's future can be cancelled from outside before the loop hears of it."""
    model = scripted(ScriptedEngine(gate))
    job = work("b", steps=3)
    tickets = loop.submit(model, [work("a", steps=3), job])
    gate.wait()
    assert tickets[0].future.cancel()
    gate.open()
    assert pixel_bytes(tickets[1]) == bytes_alone(job)
    until(lambda: loop.status().trajectories == 0)
    assert loop.status().alive
