"""A whole tuning: open, measure the defaults, search, measure the best again, write it down."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from services.core.errors import AtelierError, InvalidParameter
from services.serving.settings import Pool
from services.serving.tuned import hardware
from services.tuning.asked import (
    QUALITY_KNOBS,
    Asked,
    Outcome,
)
from services.tuning.bench import Bench
from services.tuning.finals import FINALISTS, OTHER_SAMPLES, Final, finalists, play, winner
from services.tuning.order import Order
from services.tuning.plot import draw_front
from services.tuning.result import (
    CONFIG,
    JOURNAL,
    PLOT,
    RESULT,
    Result,
    load_average,
    now,
    pool_of,
    write_config,
    write_result,
)
from services.tuning.space import About, Dial, Value, changed, dials_of
from services.tuning.study import Study, Tried


def tune(order: Order) -> Result:
    """Search, confirm, and write the results.

    An interrupt (``KeyboardInterrupt``) ends the search; what was found until then is written.

    Raises:
        InvalidParameter: nothing can be improved by what was asked, the study is of another
            question, or the time does not suffice for a single trial.
        AtelierError: the model cannot be opened or measured.
    """
    began = time.monotonic()
    pool = pool_of(order.config, order.model)
    bench = Bench(order.model, order.store, pool, order.workload, order.objectives, order.limits)
    try:
        order.progress("opening the model", 0, 1)
        judge = "fid" in order.objectives or bool(QUALITY_KNOBS & set(order.knobs))
        about = bench.open(judge=judge)
        dials = searched(order, about, bench.why_not)
        bench.judging = about.judged and (
            "fid" in order.objectives or any(d.knob in QUALITY_KNOBS for d in dials)
        )
        return _Run(order, pool, bench, about, dials, began).result()
    finally:
        bench.close()


def searched(order: Order, about: About, why_not: str) -> list[Dial]:
    """The dials to search: those that were wanted, without those that nobody could judge.

    Raises:
        InvalidParameter: FID is to be improved and cannot be measured, or nothing is left.
    """
    if "fid" in order.objectives and not about.judged:
        raise InvalidParameter(f"FID cannot be measured: {why_not}", param="objective")
    rows = order.workload.concurrency * (2 if about.guided else 1)
    found = dials_of(about, order.objectives, order.knobs, rows)
    if not about.judged:
        found = [dial for dial in found if dial.knob not in QUALITY_KNOBS]
    if not found:
        reason = f" (what changes images cannot be judged: {why_not})" if why_not else ""
        raise InvalidParameter(
            f"'{about.id}' has none of the knobs {', '.join(order.knobs)} on this machine{reason}",
            param="knobs",
        )
    return found


class _Run:
    """One tuning under way."""

    def __init__(
        self,
        order: Order,
        pool: Pool,
        bench: Bench,
        about: About,
        dials: Sequence[Dial],
        began: float,
    ) -> None:
        self._order, self._bench, self._about, self._dials = order, bench, about, dials
        self._began, self._load = began, load_average()
        self._asked = Asked(
            model=about.id,
            digest=about.digest,
            hardware=hardware(pool),
            objectives=order.objectives,
            limits=order.limits,
            workload=order.workload,
            knobs=order.knobs,
        )
        self._study = Study(order.out / JOURNAL, self._asked, dials)
        self._finals: list[Final] = []

    def result(self) -> Result:
        """Search and confirm; writes what there is even when it is interrupted."""
        base = self._base()
        interrupted = False
        try:
            self._search(base)
            self._play()
        except KeyboardInterrupt:
            interrupted = True
        finals = [] if interrupted else self._finals
        result = Result(
            asked=self._asked,
            measured=now(),
            load=(self._load, load_average()),
            interrupted=interrupted,
            base=base,
            rate=self._bench.rate or None,
            trials=self._study.trials(),
            finals=finals,
            chosen=winner(finals, self._asked),
        )
        self._write(result)
        return result

    def _base(self) -> Outcome:
        """What the defaults do: measured, or as the study remembers it."""
        known = self._study.base
        if known is not None:
            self._bench.resume(known)
            return known
        self._order.progress("measuring the defaults", 0, 1)
        started = time.monotonic()
        base = self._bench.base()
        self._check_budget(time.monotonic() - started)
        self._study.base = base
        return base

    def _check_budget(self, seconds: float) -> None:
        """Refuse a budget in which nothing could be found.

        A trial measures the defaults and a setting, about as long as the defaults took; so does a
        round of the finals.
        """
        order = self._order
        if order.minutes is None:
            return
        needed = (time.monotonic() - self._began + (2 + order.rounds) * seconds) / 60
        if needed > order.minutes:
            raise InvalidParameter(
                f"--minutes {order.minutes:g} is not enough for two trials and {order.rounds} "
                f"rounds of finals, about {needed:.1f} minutes; give more, or measure less with "
                "--seconds, --samples, --concurrency and --rounds",
                param="minutes",
            )

    def _search(self, base: Outcome) -> None:
        order = self._order
        until = float("inf")
        if order.minutes is not None:
            until = self._began + 60 * order.minutes

        def told(tried: Tried) -> None:
            order.told(tried, base)
            order.progress("searching", len(self._study.trials()), order.trials)

        def measure(values: Mapping[str, Value]) -> Outcome:
            return self._measured(changed(values, self._dials), order.workload.seed)

        order.progress("searching", len(self._study.trials()), order.trials)
        self._study.search(
            measure, trials=order.trials, until=until, spare=FINALISTS * order.rounds, told=told
        )

    def _play(self) -> None:
        order, asked = self._order, self._asked
        chosen = finalists(self._study.trials(), asked.objectives[0])
        if not chosen:
            return
        fid, agreement = self._bench.default_quality(asked.workload.seed + OTHER_SAMPLES)
        base = Outcome(throughput_gain=1.0, p99_share=1.0, fid=fid, agreement=agreement)
        done, total = 0, order.rounds * len(chosen)

        def told() -> None:
            nonlocal done
            done += 1
            order.progress("measuring the best again", done, total)

        order.progress("measuring the best again", 0, total)
        try:
            self._finals = play(chosen, asked, base, self._measured, rounds=order.rounds, told=told)
        except AtelierError as error:
            raise InvalidParameter(
                f"the finals failed, the search is kept in {order.out}: {error.message}"
            ) from error

    def _measured(self, changes: Mapping[str, Value], seed: int) -> Outcome:
        knobs = {dial.name: dial.knob for dial in self._dials}
        seen = {n: v for n, v in changes.items() if knobs[n] in QUALITY_KNOBS}
        return self._bench.outcome(self._about, changes, seen, seed)

    def _write(self, result: Result) -> None:
        out = self._order.out
        write_result(out / RESULT, result)
        draw_front(result, out / PLOT)
        target = out / CONFIG
        if result.chosen is None:
            target.unlink(missing_ok=True)
            return
        write_config(self._order.config, target, self._about, result)
