"""The search: what it finds, what it keeps, and what it goes on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.core.errors import EngineFailure, InvalidParameter
from services.tuning.asked import Asked, Limits, Objective, Outcome, Workload, excesses, value_of
from services.tuning.finals import Final, finalists, is_no_luck, play, winner
from services.tuning.space import About, Dial, Value, changed, defaults_of, dials_of
from services.tuning.study import Study, Tried

ABOUT = About(
    id="tiny",
    digest="0" * 64,
    knees={"step": 8, "decode": 4},
    threads=2,
    defaults={"steps": 20, "sampler": "euler"},
    samplers=("euler", "heun"),
    max_steps=1000,
    guided=True,
    judged=True,
)
BASE = Outcome(throughput=10.0, throughput_gain=1.0, fid=10.0, agreement=0.9)


def asked(*objectives: Objective, **changes: object) -> Asked:
    known: dict[str, object] = {
        "model": "tiny",
        "digest": "0" * 64,
        "hardware": "here",
        "objectives": objectives or ("throughput",),
        "limits": Limits(),
        "workload": Workload(),
        "knobs": ("step_rows", "steps"),
    }
    return Asked.model_validate({**known, **changes})


def dials(*knobs: str) -> list[Dial]:
    return [d for d in dials_of(ABOUT, ("throughput",), ("step_rows", "steps"), 64) if d]


def landscape(values: Mapping[str, Value]) -> Outcome:
    """Fewer steps are faster and, below ten of them, worse; sixteen rows are the best."""
    steps, rows = float(values["steps"]), float(values["step_rows"])
    gain = 20 / steps * (1 - 0.1 * abs(math.log2(rows / 16)))
    return Outcome(
        throughput=10 * gain,
        throughput_gain=gain,
        fid=10 * max(1.0, 10 / steps),
        agreement=0.9,
    )


def searched(file: Path, question: Asked, trials: int) -> Study:
    study = Study(file, question, dials())
    study.base = BASE
    study.search(landscape, trials=trials, until=math.inf)
    return study


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> list[Tried]:
    """A search of ten trials, which several tests look at: each proposal costs a model's fit."""
    return searched(tmp_path_factory.mktemp("study") / "journal", asked(), 10).trials()


def test_a_search_beats_the_defaults_within_the_limits(trials: list[Tried]) -> None:
    assert trials[0].changes == {}
    (best,) = finalists(trials, "throughput")[:1]
    assert best.outcome is not None
    assert not best.beyond
    assert best.outcome.throughput_gain > 1.2
    assert best.outcome.fid <= 10.5


def test_trials_beyond_a_limit_are_never_on_the_front(trials: list[Tried]) -> None:
    beyond = [t for t in trials if t.outcome is not None and t.outcome.fid > 10.5]
    assert beyond, "the search never looked where quality is lost: the test says nothing"
    assert all(t.beyond == ("fid_loss",) and not t.front for t in beyond)


def test_a_front_of_two_objectives_holds_no_trial_that_another_beats_in_both(
    tmp_path: Path,
) -> None:
    question = asked("throughput", "fid", limits=Limits(fid_loss=10))
    trials = searched(tmp_path / "journal", question, 5).trials()
    front = [t.outcome for t in trials if t.front and t.outcome is not None]
    assert front
    for one in front:
        assert not any(
            other.throughput_gain > one.throughput_gain and other.fid < one.fid for other in front
        )


def test_a_study_goes_on_where_it_was_left(tmp_path: Path) -> None:
    first = searched(tmp_path / "journal", asked(), 3).trials()
    again = Study(tmp_path / "journal", asked(), dials())
    assert again.base == BASE
    again.search(landscape, trials=5, until=math.inf)
    assert [t.changes for t in again.trials()][:3] == [t.changes for t in first]
    assert len(again.trials()) == 5


def test_another_question_is_another_study(tmp_path: Path) -> None:
    searched(tmp_path / "journal", asked(), 2)
    with pytest.raises(InvalidParameter, match="another digest"):
        Study(tmp_path / "journal", asked(digest="1" * 64), dials())


def test_a_file_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("no study\n")
    with pytest.raises(InvalidParameter, match="holds no study"):
        Study(tmp_path / "journal", asked(), dials())


def test_a_setting_that_kills_its_process_is_one_failed_trial(tmp_path: Path) -> None:
    def fragile(values: Mapping[str, Value]) -> Outcome:
        if values["step_rows"] != 8:
            raise EngineFailure("the process that measured died")
        return landscape(values)

    study = Study(tmp_path / "journal", asked(), dials())
    study.base = BASE
    study.search(fragile, trials=4, until=math.inf)
    failed = [t for t in study.trials() if t.outcome is None]
    assert len(study.trials()) == 4
    assert failed
    assert all(t.reason == "the process that measured died" for t in failed)


def test_an_interrupt_keeps_what_was_found(tmp_path: Path) -> None:
    calls = 0

    def interrupted(values: Mapping[str, Value]) -> Outcome:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return landscape(values)

    study = Study(tmp_path / "journal", asked(), dials())
    study.base = BASE
    with pytest.raises(KeyboardInterrupt):
        study.search(interrupted, trials=9, until=math.inf)
    assert [t.number for t in study.trials()] == [0, 1]
    study.search(landscape, trials=3, until=math.inf)
    assert len(study.trials()) == 3


def test_no_trial_is_begun_when_the_time_is_up(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", asked(), dials())
    study.base = BASE
    study.search(landscape, trials=9, until=-math.inf)
    assert len(study.trials()) == 2  # the defaults, and one to compare with them


def test_only_knobs_that_the_model_has_are_searched() -> None:
    every = ("step_rows", "decode_rows", "threads", "precision", "buckets", "steps", "sampler")
    found = {dial.name for dial in dials_of(ABOUT, ("throughput",), every, 64)}
    assert found == {"step_rows", "decode_rows", "threads", "steps", "sampler"}
    gan = About(id="gan", digest="", knees={"decode": 4}, threads=1)
    assert [dial.name for dial in dials_of(gan, ("throughput",), every, 64)] == ["decode_rows"]


def test_more_steps_than_the_defaults_are_searched_only_for_quality() -> None:
    def most(objective: Objective) -> int:
        (dial,) = dials_of(ABOUT, (objective,), ("steps",), 64)
        return dial.distribution.high

    assert (most("throughput"), most("fid")) == (20, 40)


def test_defaults_are_no_changes() -> None:
    assert changed(defaults_of(dials()), dials()) == {}
    assert changed({"step_rows": 3, "steps": 20}, dials()) == {"step_rows": 3}


def test_limits_say_by_how_much_they_are_passed() -> None:
    outcome = Outcome(p99=0.3, fid=12.6, agreement=0.45)
    found = excesses(outcome, BASE, Limits(p99=0.2, fid_loss=0.05, agreement_loss=0.02))
    assert found == pytest.approx({"p99": 0.5, "fid_loss": 0.2, "agreement_loss": 0.48})
    assert all(excess <= 0 for excess in excesses(BASE, BASE, Limits()).values())


def tried(number: int, gain: float) -> Tried:
    outcome = BASE.model_copy(update={"throughput_gain": gain})
    return Tried(number=number, changes={"steps": number}, outcome=outcome, front=True)


def final(rounds: list[Outcome], **limits: float) -> Final:
    measured = iter(rounds)
    question = asked(limits=Limits(**limits))
    (found,) = play(
        [tried(3, 2.0)], question, BASE, lambda changes, seed: next(measured), rounds=len(rounds)
    )
    return found


def outcomes(*gains: float, fid: float = 10.0) -> list[Outcome]:
    return [BASE.model_copy(update={"throughput_gain": gain, "fid": fid}) for gain in gains]


def test_who_won_by_luck_does_not_win_twice() -> None:
    lucky = final(outcomes(1.3, 1.4, 0.95, 1.2, 1.3))
    assert not lucky.better
    assert winner([lucky], asked()) is None


@pytest.mark.parametrize(
    ("wins", "rounds", "rare"), [(5, 5, True), (4, 5, False), (4, 4, False), (8, 10, False)]
)
def test_a_win_has_to_be_rare_by_luck(wins: int, rounds: int, rare: bool) -> None:
    assert is_no_luck(wins, rounds) is rare


def test_who_wins_the_finals_within_the_limits_is_chosen() -> None:
    good = final(outcomes(1.2, 1.1, 1.3, 1.2, 1.4))
    assert good.better
    assert good.median.throughput_gain == pytest.approx(1.2)
    assert winner([good], asked()) is good
    worse = final(outcomes(1.2, 1.1, 1.3, 1.2, 1.4, fid=11.0))
    assert worse.beyond == ["fid_loss"]
    assert winner([worse], asked()) is None


def test_the_first_objective_decides_who_plays() -> None:
    chosen = finalists([tried(1, 1.2), tried(2, 1.5), tried(3, 1.4)], "throughput")
    assert [t.number for t in chosen] == [2, 3]


def test_an_objective_that_was_not_measured_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="p99 was asked for"):
        value_of("p99", BASE)
