"""How a tuning is told: a bar and a line for each trial while it runs, a table at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from services.tuning.asked import Outcome
    from services.tuning.result import Result
    from services.tuning.study import Tried


class _Began(NamedTuple):
    """What is being done, since when (``time.monotonic``), and how much was done by then."""

    what: str
    at: float
    done: int


def show(result: Result, out: Path) -> None:
    """Print what was found."""
    console = Console()
    table = Table("trial", "changes", title=f"{result.asked.model}: the best, measured again")
    for column in ("throughput", "p99", "FID", "agreement", "beyond"):
        table.add_column(column, justify="right")
    table.add_row("-", "the defaults", *cells(result.base), "")
    for final in result.finals:
        changes = ", ".join(f"{name} {value}" for name, value in final.changes.items())
        table.add_row(str(final.number), changes, *cells(final.median), ", ".join(final.beyond))
    console.print(table)
    if result.interrupted:
        console.print(f"interrupted: the same command goes on with the study in {out}")
    elif result.chosen is None:
        console.print("nothing beat the defaults within the limits: they stand, no config written")
    else:
        console.print(f"atelier serve --config {out / 'serve.yaml'}", markup=False)
    busy = max(result.load)
    console.print(f"load average {busy:g} meanwhile; all results: {out}", markup=False)


def cells(outcome: Outcome) -> list[str]:
    """An outcome's numbers for people: images per second, milliseconds, and their ratios."""
    speed = _ratio(outcome.throughput, outcome.throughput_gain, "{:.3g}/s")
    delay = None if outcome.p99 is None else 1000 * outcome.p99
    rest = [outcome.fid, outcome.agreement]
    return [
        speed,
        _ratio(delay, outcome.p99_share, "{:.0f} ms"),
        *("" if value is None else f"{value:.4g}" for value in rest),
    ]


@contextmanager
def progress() -> Iterator[
    tuple[Callable[[str, int, int], None], Callable[[Tried, Outcome], None]]
]:
    """A bar on stderr with the time to go, and a line above it for every trial."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task("opening the model", total=1, left="")
        began = _Began("", time.monotonic(), 0)

        def report(what: str, done: int, total: int) -> None:
            nonlocal began
            if began.what != what:
                began = _Began(what, time.monotonic(), done)
            left = ""
            gone = done - began.done
            if gone:
                each = (time.monotonic() - began.at) / gone
                left = f"about {each * (total - done) / 60:.1f} min to go"
            shown.update(bar, description=what, completed=done, total=total, left=left)

        def tell(tried: Tried, base: Outcome) -> None:  # noqa: ARG001 - the base is in the table
            changes = ", ".join(f"{n} {v}" for n, v in tried.changes.items()) or "the defaults"
            numbers = "failed: " + tried.reason
            if tried.outcome is not None:
                numbers = ", ".join(text for text in cells(tried.outcome) if text)
            beyond = f" [beyond {', '.join(tried.beyond)}]" if tried.beyond else ""
            shown.console.print(f"{tried.number}: {changes}: {numbers}{beyond}", markup=False)

        yield report, tell


def _ratio(value: float | None, ratio: float | None, form: str) -> str:
    if value is None:
        return ""
    return form.format(value) + ("" if ratio is None else f" ({ratio:.2f}x)")
