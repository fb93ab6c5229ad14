"""The search: Bayesian optimisation over the dials, kept in a file from which it goes on.

Gaussian processes with the expected hypervolume improvement propose what to try next (Optuna's
`GPSampler`; Daulton et al., 2020, arXiv:2006.05078), and learn from every trial which settings the
limits allow. The first trial is the defaults against themselves: it shows the machine's noise.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from services.core.errors import AtelierError, InvalidParameter
from services.tuning.asked import Asked, Outcome, Strict, excesses, value_of
from services.tuning.space import Dial, Value, changed, defaults_of

STUDY = "atelier-tune"
STARTUP_SHARE = 3
"""One trial of so many is drawn at random, before there is anything to learn from."""
MOST_STARTUP = 10
ASKED, BASE, CHANGES = "asked", "base", "changes"
OUTCOME, REASON = "outcome", "reason"

Measure = Callable[[Mapping[str, Value]], Outcome]
"""Measures a setting of all dials, in turn with the defaults."""


class Tried(Strict):
    """One trial.

    Attributes:
        number: from 0, which is the defaults against themselves.
        changes: values of the dials that are not at their defaults.
        outcome: what was measured; ``None`` of a trial that failed.
        beyond: the limits that it does not keep.
        reason: why it failed.
        front: whether no other trial within the limits is at least as good in all objectives and
            better in one.
    """

    number: int
    changes: dict[str, Value]
    outcome: Outcome | None
    beyond: tuple[str, ...] = ()
    reason: str = ""
    front: bool = False


class Study:
    """The trials of one tuning, in a journal of JSON lines.

    Args:
        file: the journal; made where there is none.
        asked: what is tuned for.
        dials: what is searched.

    Raises:
        InvalidParameter: the file holds another study, or none that can be read.
    """

    def __init__(self, file: Path, asked: Asked, dials: Sequence[Dial]) -> None:
        self._asked, self._dials = asked, dials
        file.parent.mkdir(parents=True, exist_ok=True)
        up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
        directions = [up if o == "throughput" else down for o in asked.objectives]
        with _quiet():
            try:
                backend = JournalFileBackend(str(file), JournalFileOpenLock(str(file)))
                self._study = optuna.create_study(
                    storage=JournalStorage(backend),
                    study_name=STUDY,
                    directions=directions,
                    load_if_exists=True,
                )
            except (ValueError, KeyError) as error:
                raise InvalidParameter(f"{file} holds no study: {error}", param="out") from error
        self._check(file)

    @property
    def base(self) -> Outcome | None:
        """What the defaults were measured to do when the study began."""
        found = self._study.user_attrs.get(BASE)
        return None if found is None else Outcome.model_validate(found)

    @base.setter
    def base(self, outcome: Outcome) -> None:
        self._study.set_user_attr(BASE, outcome.model_dump())

    def trials(self) -> list[Tried]:
        """All that came to an end, in order."""
        front = {trial.number for trial in self._study.best_trials} if self._done() else set()
        return [self._tried(trial, trial.number in front) for trial in self._ended()]

    def seconds_each(self) -> float | None:
        """The median time of a trial; ``None`` before there was one."""
        spent = [t.duration.total_seconds() for t in self._done() if t.duration is not None]
        return statistics.median(spent) if spent else None

    def search(
        self,
        measure: Measure,
        *,
        trials: int,
        until: float,
        spare: int = 0,
        told: Callable[[Tried], None] = lambda tried: None,
    ) -> None:
        """Try settings until there are so many trials, or until the time is up.

        Args:
            measure: measures one.
            trials: of the whole study, those of earlier runs among them.
            until: on ``time.monotonic``; a trial that would go on past it is not begun, except the
                first two.
            spare: trials' worth of time that is left unused before that.
            told: of every trial that ended.
        """
        done = len(self._ended())
        self._study.sampler = optuna.samplers.GPSampler(
            # Another run must not draw the same again.
            seed=self._asked.workload.seed + done,
            n_startup_trials=min(MOST_STARTUP, max(2, trials // STARTUP_SHARE)),
            warn_independent_sampling=False,
        )
        if done == 0:
            self._study.enqueue_trial(defaults_of(self._dials))
        while (done := len(self._ended())) < trials:
            needed = (1 + spare) * (self.seconds_each() or 0.0)
            if done > 1 and time.monotonic() + needed > until:
                return
            told(self._try(measure))

    def _try(self, measure: Measure) -> Tried:
        with _quiet():
            trial = self._study.ask({dial.name: dial.distribution for dial in self._dials})
            # A later run may measure other defaults; what was tried stays what it was.
            trial.set_user_attr(CHANGES, changed(trial.params, self._dials))
        try:
            outcome = measure(trial.params)
        except AtelierError as error:
            trial.set_user_attr(REASON, error.message)
            self._study.tell(trial, state=TrialState.FAIL)
        except BaseException:
            trial.set_user_attr(REASON, "interrupted")
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            limits = self._asked.limits
            for name, excess in excesses(outcome, self.base or outcome, limits).items():
                trial.set_constraint(name, excess)
            trial.set_user_attr(OUTCOME, outcome.model_dump())
            self._study.tell(trial, [value_of(o, outcome) for o in self._asked.objectives])
        return self._tried(self._study.trials[trial.number], front=False)

    def _tried(self, trial: FrozenTrial, front: bool) -> Tried:
        found = trial.user_attrs.get(OUTCOME)
        return Tried(
            number=trial.number,
            changes=trial.user_attrs[CHANGES],
            outcome=None if found is None else Outcome.model_validate(found),
            beyond=tuple(name for name, excess in trial.constraints.items() if excess > 0),
            reason=trial.user_attrs.get(REASON, ""),
            front=front,
        )

    def _ended(self) -> list[FrozenTrial]:
        return [
            t
            for t in self._study.trials
            if t.state.is_finished() and t.user_attrs.get(REASON) != "interrupted"
        ]

    def _done(self) -> list[FrozenTrial]:
        return [t for t in self._ended() if t.state is TrialState.COMPLETE]

    def _check(self, file: Path) -> None:
        mine: dict[str, Any] = {
            **self._asked.model_dump(mode="json"),
            "dials": [dial.name for dial in self._dials],
        }
        known = self._study.user_attrs.get(ASKED)
        if known is None:
            self._study.set_user_attr(ASKED, mine)
            return
        other = sorted(name for name in mine if known.get(name) != mine[name])
        if other:
            raise InvalidParameter(
                f"{file} is a study with another {' and '.join(other)}; go on with the same "
                "options, or begin another with --out FOLDER",
                param="out",
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own log and what it says of parts of it being new."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
