"""What may enter: bounded by predicted work, and by deadlines that can be met."""

from __future__ import annotations

import pytest

from services.core.errors import DeadlineUnmeetable, QueueFull
from services.core.trajectory import Workload
from services.runtime.admission import MAX_RETRY_AFTER, admit
from services.runtime.ticket import Ticket
from tests.scripted import ScriptedEngine, scripted, work

NOW = 1000.0
MODEL = scripted(ScriptedEngine())


def ticket(seconds: float, *, deadline: float = float("inf"), solo: float | None = None) -> Ticket:
    """A row that needs ``seconds`` of the device, and ``solo`` seconds with it to itself."""
    return Ticket(
        job=work("a"),
        model=MODEL,
        workload=Workload("image", "shared", 1),
        submitted=NOW,
        deadline=deadline,
        binding=deadline != float("inf"),
        step_work=seconds,
        decode_work=0.0,
        step_solo=seconds if solo is None else solo,
        decode_solo=0.0,
        touched=NOW,
    )


def enter(newcomers: list[Ticket], waiting: list[Ticket], queue_seconds: float = 10.0) -> None:
    backlog = sum(t.remaining_work for t in waiting)
    admit(newcomers, waiting, backlog, NOW, queue_seconds=queue_seconds)


def test_the_queue_is_bounded_by_seconds_not_by_rows() -> None:
    enter([ticket(0.001) for _ in range(5000)], [ticket(1.0)])
    with pytest.raises(QueueFull):
        enter([ticket(9.5)], [ticket(1.0)])


def test_a_full_queue_says_when_there_will_be_room() -> None:
    with pytest.raises(QueueFull, match=r"holds 8\.0 s of work and takes 10 s") as caught:
        enter([ticket(5.0)], [ticket(8.0)])
    assert caught.value.retry_after == pytest.approx(3.0)
    with pytest.raises(QueueFull) as caught:
        enter([ticket(2.1)], [ticket(8.0)])
    assert caught.value.retry_after == 1.0
    with pytest.raises(QueueFull) as caught:
        enter([ticket(1e6)], [ticket(8.0)])
    assert caught.value.retry_after == MAX_RETRY_AFTER


def test_an_empty_queue_takes_any_single_call() -> None:
    enter([ticket(1e6)], [])
    with pytest.raises(QueueFull):
        enter([ticket(1e6)], [ticket(0.001)])


def test_the_rows_of_a_call_enter_together_or_not_at_all() -> None:
    with pytest.raises(QueueFull):
        enter([ticket(1.0) for _ in range(3)], [ticket(8.0)])
    enter([ticket(1.0) for _ in range(2)], [ticket(8.0)])


def test_a_deadline_that_its_own_work_overruns_is_refused() -> None:
    enter([ticket(0.9, deadline=NOW + 1)], [])
    with pytest.raises(DeadlineUnmeetable, match=r"about 1\.10 s, the deadline is in 1\.00 s"):
        enter([ticket(1.1, deadline=NOW + 1)], [])


def test_a_deadline_in_the_past_is_refused() -> None:
    with pytest.raises(DeadlineUnmeetable, match=r"the deadline is in 0\.00 s") as caught:
        enter([ticket(0.001, deadline=NOW - 5)], [])
    assert caught.value.param == "deadline"


def test_only_more_urgent_work_counts_against_a_deadline() -> None:
    less_urgent = [ticket(5.0, deadline=NOW + 60), ticket(3.0)]
    enter([ticket(0.5, deadline=NOW + 1)], less_urgent)
    with pytest.raises(DeadlineUnmeetable):
        enter([ticket(0.5, deadline=NOW + 1)], [ticket(0.6, deadline=NOW + 0.9)])


def test_a_row_is_no_faster_for_sharing_batches() -> None:
    """Its share of the device is small, but it still waits for every one of its evaluations."""
    with pytest.raises(DeadlineUnmeetable):
        enter([ticket(0.1, solo=2.0, deadline=NOW + 1)], [])


def test_several_rows_must_all_be_done_in_time() -> None:
    rows = [ticket(0.4, deadline=NOW + 1) for _ in range(3)]
    enter(rows[:2], [])
    with pytest.raises(DeadlineUnmeetable):
        enter(rows, [])
