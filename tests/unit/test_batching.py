"""Which rows step together, on a clock that the test turns."""

from __future__ import annotations

import torch

from services.core.trajectory import Trajectory, Workload
from services.runtime.batching import PATIENCE_SECONDS, PREPARING, form_batch
from services.runtime.cost import CostCurve, Costs
from services.runtime.registry import LoadedModel
from services.runtime.ticket import Ticket
from tests.scripted import ScriptedEngine, scripted, work


def model(knee: int = 4, name: str = "scripted") -> LoadedModel:
    return scripted(ScriptedEngine(name=name), knee=knee, keys=("shared", "other"))


def slowing(rows: int) -> LoadedModel:
    """A model whose evaluations take 10 ms and a bit less for every further row; no knee below."""
    here = model(knee=rows)
    points = {n: 0.01 * n * (1 - 0.02 * n / rows) for n in range(1, rows + 1)}
    points[rows] *= 0.8
    here.costs = Costs({("step", "shared"): CostCurve(points)})
    return here


def ticket(
    name: str,
    at: LoadedModel,
    *,
    deadline: float = 100.0,
    evaluations: int = 10,
    done: int | None = 0,
    rows: int = 1,
    key: str = "shared",
    submitted: float = 0.0,
    touched: float | None = None,
    step: float = 0.01,
) -> Ticket:
    """A row with ``done`` evaluations behind it; ``None`` for one that is not prepared."""
    load = Workload("image", key, evaluations, rows)
    found = Ticket(
        job=work(name),
        model=at,
        workload=load,
        submitted=submitted,
        deadline=deadline,
        binding=False,
        step_work=step,
        decode_work=step,
        step_solo=step,
        decode_solo=step,
        touched=submitted if touched is None else touched,
    )
    if done is not None:
        found.trajectory = Trajectory(
            job=found.job, workload=load, x=torch.zeros(1), generator=torch.Generator(), index=done
        )
    return found


def names(batch: object) -> list[str]:
    return [t.job.id for t in batch]  # type: ignore[attr-defined]


def test_there_is_no_batch_of_nothing() -> None:
    assert not form_batch([], 0.0)


def test_rows_with_the_earliest_deadlines_fill_the_batch_up_to_the_knee() -> None:
    here = model(knee=3)
    rows = [ticket(f"{d}", here, deadline=d) for d in (50, 20, 40, 10, 30)]
    assert names(form_batch(rows, 0.0)) == ["10", "20", "30"]


def test_guided_rows_count_two_and_leave_room_to_single_ones() -> None:
    here = model(knee=4)
    rows = [
        ticket(n, here, deadline=d, rows=r)
        for n, d, r in (("a", 1, 2), ("b", 2, 1), ("c", 3, 2), ("d", 4, 1), ("e", 5, 1))
    ]
    assert names(form_batch(rows, 0.0)) == ["a", "b", "d"]


def test_a_guided_row_goes_alone_where_the_knee_is_one() -> None:
    here = model(knee=1)
    rows = [ticket("a", here, deadline=1, rows=2), ticket("b", here, deadline=2)]
    assert names(form_batch(rows, 0.0)) == ["a"]


def test_only_rows_that_can_share_the_leaders_evaluation_join_it() -> None:
    here, elsewhere = model(), model(name="elsewhere")
    rows = [
        ticket("lead", here, deadline=1),
        ticket("other network", here, deadline=2, key="other"),
        ticket("other model", elsewhere, deadline=3),
        ticket("decoding", here, deadline=4, done=10),
        ticket("mate", here, deadline=5, done=7),
    ]
    assert names(form_batch(rows, 0.0)) == ["lead", "mate"]


def test_a_batch_grows_no_further_than_its_rows_can_afford() -> None:
    here = slowing(rows=16)
    # Ten evaluations and the decoding in 0.45 s: 44 ms each, which is what four rows take.
    hurried = ticket("hurried", here, deadline=0.45)
    patient = [ticket(f"patient {i}", here, deadline=10.0) for i in range(12)]
    assert len(form_batch([hurried, *patient], 0.0)) == 4
    assert len(form_batch(patient, 0.0)) == 12


def test_whoever_joins_must_afford_the_batch_too() -> None:
    here = slowing(rows=16)
    long = [ticket(f"long {i}", here, deadline=5.0, evaluations=20) for i in range(6)]
    short = ticket("short", here, deadline=5.1, evaluations=99)
    assert short not in form_batch([*long, short], 0.0)
    assert short in form_batch([*long[:3], short], 0.0)


def test_what_is_late_anyway_takes_part_in_any_batch() -> None:
    here = slowing(rows=16)
    lost = [ticket(f"lost {i}", here, deadline=0.05) for i in range(10)]
    lead = ticket("lead", here, deadline=5.0)
    assert len(form_batch([*lost, lead], 0.0)) == 11


def test_with_a_whole_batch_late_the_queue_is_emptied_at_the_knee() -> None:
    here = slowing(rows=16)
    hurried = ticket("hurried", here, deadline=0.45)
    lost = [ticket(f"lost {i}", here, deadline=0.05, submitted=i / 100) for i in range(16)]
    assert len(form_batch([hurried, *lost[:15]], 0.2)) == 2
    batch = form_batch([hurried, *lost], 0.2)
    assert batch[0] is hurried
    assert len(batch) == 16


def test_a_cap_that_memory_taught_is_kept() -> None:
    here = model(knee=4)
    here.caps.lower(("step", "shared"), 2)
    rows = [ticket(f"{i}", here, deadline=i) for i in range(1, 6)]
    assert names(form_batch(rows, 0.0)) == ["1", "2"]
    decoding = [ticket(f"{i}", here, deadline=i, done=10) for i in range(1, 6)]
    assert len(form_batch(decoding, 0.0)) == 4


def test_a_newcomer_that_will_have_room_is_prepared_before_the_next_evaluation() -> None:
    here = model(knee=4)
    flying = [ticket(f"{i}", here, deadline=i, done=3) for i in range(1, 4)]
    newcomer = ticket("new", here, deadline=90, done=None)
    assert names(form_batch([*flying, newcomer], 0.0)) == ["new"]
    newcomer.trajectory = flying[0].trajectory
    assert names(form_batch([*flying, newcomer], 0.0)) == ["1", "2", "3", "new"]


def test_a_newcomer_without_room_is_not_prepared_yet_unless_it_is_more_urgent() -> None:
    here = model(knee=3)
    flying = [ticket(f"{i}", here, deadline=i, done=3) for i in range(1, 4)]
    later = ticket("later", here, deadline=90, done=None)
    assert names(form_batch([*flying, later], 0.0)) == ["1", "2", "3"]
    sooner = ticket("sooner", here, deadline=0.5, done=None)
    assert names(form_batch([*flying, sooner], 0.0)) == ["sooner"]


def test_newcomers_are_prepared_together_within_the_limit() -> None:
    here = model(knee=8)
    here.caps.lower(PREPARING, 3)
    rows = [ticket(f"{i}", here, deadline=i, done=None) for i in range(1, 6)]
    assert names(form_batch(rows, 0.0)) == ["1", "2", "3"]


def test_rows_that_can_make_their_deadline_go_before_those_that_cannot() -> None:
    here = model(knee=1)
    late = ticket("late", here, deadline=0.05, evaluations=10)
    in_time = ticket("in time", here, deadline=0.5, evaluations=10)
    assert names(form_batch([late, in_time], 0.0)) == ["in time"]


def test_among_late_rows_the_oldest_goes_first() -> None:
    here = model(knee=1)
    rows = [ticket(f"{s}", here, deadline=0.0, submitted=s, touched=0.9) for s in (0.3, 0.1, 0.2)]
    assert names(form_batch(rows, 1.0)) == ["0.1"]


def test_a_row_that_waited_too_long_goes_before_all_others() -> None:
    here = model(knee=1)
    starving = ticket("starving", here, deadline=1e9, touched=0.0)
    urgent = ticket("urgent", here, deadline=PATIENCE_SECONDS + 0.5, touched=PATIENCE_SECONDS)
    assert names(form_batch([starving, urgent], PATIENCE_SECONDS * 0.9)) == ["urgent"]
    assert names(form_batch([starving, urgent], PATIENCE_SECONDS * 1.1)) == ["starving"]


def test_nothing_starves_under_a_flood_that_takes_the_whole_device() -> None:
    """A simulated minute: a short urgent job arrives whenever the last one is done."""
    here, step = model(knee=1), 0.01
    long = ticket("long", here, deadline=0.5, evaluations=20, step=step)
    now, served, finished = 0.0, 0, None
    flood = ticket("flood", here, deadline=0.05, evaluations=1, key="other", step=step)
    while now < 60 and finished is None:
        (chosen,) = form_batch([long, flood], now)
        now += step
        chosen.touched = now
        assert chosen.trajectory is not None
        chosen.trajectory.index += 1
        if chosen is flood:
            served += 1
            flood = ticket(
                "flood",
                here,
                deadline=now + 0.05,
                evaluations=1,
                key="other",
                step=step,
                submitted=now,
            )
        elif chosen.trajectory.finished:
            finished = now
    assert finished is not None
    assert finished < 21 * (PATIENCE_SECONDS + 2 * step)
    assert served > 100
