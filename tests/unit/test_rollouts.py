"""A version on trial takes its share, costs nobody an answer, and leaves when it fails."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import binomtest
from typer.testing import CliRunner

from model_store.addition import add_model, add_version
from model_store.evaluation.drift import Drift, measure_drift
from model_store.evaluation.suite.features import DigitsClassifier
from model_store.plans import Canary
from model_store.store import Store
from services.cli import app
from services.core.backend import BackendOver
from services.core.errors import EngineFailure, InvalidParameter, ModelError
from services.core.job import Answer, Call, CallFinished, Event, Queued, Task, Timings, Watch
from services.core.model import ModelInfo
from services.core.versions import of_version
from services.serving.local import local_backend
from services.serving.rollouts import RolloutMetrics, Rollouts, falls_within
from services.serving.trials import Counts, Trials, counted, settle, verdict, wilson
from tests.unit.tiny_networks import write_model

NAME = "my-gan"
FAILURE = EngineFailure("not a number")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of two versions; what the second makes is nearly black."""
    folder = tmp_path_factory.mktemp("shelf")
    store = Store(folder / "store", catalogs=())
    add_model(store, write_model(folder / "one", pixel_range=[-1, 1]))
    add_version(store, write_model(folder / "two", pixel_range=[-1, 40]))
    return folder / "store"


@pytest.fixture
def kept(shelf: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(shelf, tmp_path / "kept"), catalogs=())


class Versions(BackendOver):
    """Answers with the version that was asked for; some of them fail."""

    def __init__(self, *failing: str, error: Exception = FAILURE) -> None:
        self.failing, self.error, self.asked = failing, error, Counter[str]()

    async def run(self, call: Call) -> Answer:
        self.asked[call.version] += 1
        if call.version in self.failing:
            raise self.error
        return Answer(call.model, (), Timings(), versions={call.model: call.version})

    async def stream(
        self,
        call: Call,
        watch: Watch,  # noqa: ARG002 - a `Backend`
    ) -> AsyncGenerator[Event, None]:
        answer = await self.run(call)
        yield Queued(1, 0, 0.0, answer.versions)
        yield CallFinished(call.model, Timings())

    async def model(self, name: str) -> ModelInfo:
        self.asked[name] += 1
        return None  # type: ignore[return-value] - only what was asked for is looked at


def asked(number: int) -> Call:
    return Call(id=f"request-{number}", model=NAME, task=Task.GENERATE, tenant="shop")


def on_trial(store: Store, **fields: Any) -> Canary:
    former, to = store.versions(NAME)
    known = {"former": former, "to": to, "percent": 50, "seed": 7, "started": datetime.now(UTC)}
    canary = Canary.model_validate({**known, **fields})
    store.change_plan(NAME, lambda plan: plan.model_copy(update={"canary": canary}))
    return canary


def rollouts(store: Store, backend: Versions, trials: Trials, **more: Any) -> Rollouts:
    return Rollouts(backend, store.plans, trials, RolloutMetrics(CollectorRegistry()), **more)


@pytest.mark.parametrize(("failed", "number"), [(0, 10), (1, 3), (40, 100), (7, 7), (3, 5000)])
def test_bounds_are_wilsons(failed: int, number: int) -> None:
    known = binomtest(failed, number).proportion_ci(0.95, method="wilson")
    assert wilson(failed, number) == pytest.approx((known.low, known.high), abs=1e-12)


def test_a_share_is_the_share_that_was_asked_for_and_a_retry_falls_on_the_same_side(
    kept: Store,
) -> None:
    small, large = on_trial(kept, percent=5), on_trial(kept, percent=20)
    number = 20_000
    within = {i for i in range(number) if falls_within(small, asked(i))}
    share = binomtest(len(within), number).proportion_ci(0.999999)
    assert share.low < 0.05 < share.high
    assert all(falls_within(large, asked(i)) for i in within), "a larger share keeps the smaller"
    assert within == {i for i in range(number) if falls_within(small, asked(i))}
    reseeded = small.model_copy(update={"seed": 8})
    assert within != {i for i in range(number) if falls_within(reseeded, asked(i))}


async def test_a_failing_version_costs_nobody_an_answer_and_is_rolled_back(kept: Store) -> None:
    canary = on_trial(kept, least_samples=20)
    told: list[dict[str, Any]] = []
    backend, trials = Versions(canary.to), Trials(kept, tell=told.append)
    front = rollouts(kept, backend, trials)
    for number in range(100):
        answer = await front.run(asked(number))
        assert answer.versions == {NAME: canary.former}
    assert backend.asked[canary.to] > 20
    trials.look()
    ended = kept.plans.get(NAME).canary
    assert ended is not None
    assert ended.state == "rolled_back"
    assert "surely more" in ended.reason
    assert [(event["event"], event["digest"]) for event in told] == [
        ("model.rolled_back", canary.to)
    ]
    before = backend.asked[canary.to]
    fresh = rollouts(kept, backend, trials)
    for number in range(100):
        await fresh.run(asked(number))
    assert backend.asked[canary.to] == before, "nobody gets it any more"
    assert kept.versions(NAME)[0] == canary.former


async def test_a_streamed_request_begins_again_on_the_version_before(kept: Store) -> None:
    canary = on_trial(kept, percent=100)
    front = rollouts(kept, Versions(canary.to), Trials(kept))
    events = [event async for event in front.stream(asked(1), Watch())]
    assert isinstance(events[0], Queued)
    assert events[0].versions == {NAME: canary.former}
    assert isinstance(events[-1], CallFinished)


async def test_what_clients_do_wrong_is_no_fault_of_the_version(kept: Store) -> None:
    canary = on_trial(kept, percent=100, least_samples=1)
    trials = Trials(kept)
    front = rollouts(kept, Versions(canary.to, error=InvalidParameter("no such label")), trials)
    for number in range(5):
        with pytest.raises(InvalidParameter):
            await front.run(asked(number))
    trials.look()
    assert kept.plans.get(NAME).trial is not None
    assert counted(kept.user.root, NAME, canary) == Counts()


def test_processes_judge_by_the_sum_of_what_they_counted(kept: Store) -> None:
    canary = on_trial(kept, least_samples=20)
    processes = [Trials(kept) for _ in range(3)]
    for trials in processes:
        for number in range(10):
            trials.note(NAME, canary, on_trial=True, failed=number % 2 == 0)
            trials.note(NAME, canary, on_trial=False, failed=False)
    processes[0].look()
    assert kept.plans.get(NAME).trial is not None, "ten samples are not enough"
    processes[1].look()
    assert counted(kept.user.root, NAME, canary) == Counts(former=20, trial=20, trial_failed=10)
    ended = kept.plans.get(NAME).canary
    assert ended is not None
    assert ended.state == "rolled_back"
    processes[2].look()  # finds the trial ended


def test_a_good_version_is_promoted_where_that_was_asked_for(kept: Store) -> None:
    canary = on_trial(kept, least_samples=5, promote_after=30)
    trials = Trials(kept)
    for _ in range(30):
        trials.note(NAME, canary, on_trial=True, failed=False)
    trials.look()
    assert kept.versions(NAME)[0] == canary.to
    ended = kept.plans.get(NAME).canary
    assert ended is not None
    assert ended.state == "promoted"
    assert not settle(kept, NAME, canary.to, "rolled_back", "too late")


def test_as_many_failures_as_before_are_no_reason(kept: Store) -> None:
    canary = on_trial(kept, least_samples=10)
    counts = Counts(former=1000, former_failed=100, trial=100, trial_failed=12)
    assert verdict(canary, counts) is None
    assert verdict(canary, counts.model_copy(update={"trial_failed": 40})) is not None
    wide = canary.model_copy(update={"error_margin": 0.5})
    assert verdict(wide, counts.model_copy(update={"trial_failed": 40})) is None


async def test_a_pin_and_a_named_version_come_before_a_trial(kept: Store) -> None:
    canary = on_trial(kept, percent=100)
    backend = Versions()
    pinned = rollouts(kept, backend, Trials(kept), pins={NAME: canary.former[:8]})
    assert (await pinned.run(asked(1))).versions == {NAME: canary.former[:8]}
    await pinned.model(NAME)
    assert backend.asked[of_version(NAME, canary.former[:8])] == 1
    named = replace(asked(2), version=canary.former)
    assert (await rollouts(kept, backend, Trials(kept)).run(named)).versions == {
        NAME: canary.former
    }


def test_versions_of_a_running_trial_stay(kept: Store) -> None:
    canary = on_trial(kept)
    with pytest.raises(ModelError, match="running canary"):
        kept.remove(of_version(NAME, canary.to))
    with pytest.raises(ModelError, match="end it first"):
        kept.serve(NAME, canary.former)


async def test_drift_is_nothing_for_the_same_and_much_for_another(kept: Store) -> None:
    former, to = kept.versions(NAME)
    backend = local_backend(store=kept)

    async def drift(digest: str) -> Drift:
        return await measure_drift(
            backend, NAME, former=former, to=digest, features=DigitsClassifier(), samples=96
        )

    try:
        same, other = await drift(former), await drift(to)
    finally:
        backend.close()
    assert same.ratio < 0.1
    assert other.ratio > 3


def test_the_command_line_drives_it(kept: Store) -> None:
    former, to = kept.versions(NAME)
    store = str(kept.user.root)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["models", *arguments, "--store", store])
        assert result.exit_code == code, result.output
        return result.output

    assert [row["digest"] for row in json.loads(run("versions", NAME, "--json"))] == [former, to]
    run("warm", NAME)
    assert kept.plans.get(NAME).wanted() == [NAME]
    gated = run("canary", NAME, "--to", to[:8], "--compare-by", "digits", "--samples", "96", code=1)
    assert "not begun" in gated
    assert kept.plans.get(NAME).trial is None
    assert "not compared" in run("canary", NAME, "--to", to[:8], "--percent", "10")
    trial = kept.plans.get(NAME).trial
    assert trial is not None
    assert (trial.percent, trial.to, trial.former) == (10, to, former)
    assert kept.plans.get(NAME).wanted() == [NAME, of_version(NAME, former), of_version(NAME, to)]
    assert "running already" in run("canary", NAME, "--to", to[:8], code=1)
    assert json.loads(run("status", NAME, "--json"))["canary"]["state"] == "running"
    run("rollback", NAME)
    assert "rolled_back" in run("status", NAME)
    run("canary", NAME, "--to", to[:8])
    run("promote", NAME)
    assert kept.versions(NAME) == [to, former]
    run("serve", of_version(NAME, former[:8]))
    assert kept.versions(NAME) == [former, to]
    assert "no canary" in run("promote", NAME, code=1)
