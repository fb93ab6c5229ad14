"""A bar for a job that is waited for; needs rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .job_answers import Job


@contextmanager
def bar(title: str | None) -> Iterator[Callable[[Job], None]]:
    """Show a bar on stderr until the block is left; what it gives is told of the job."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title or "job", total=1)

        def watch(job: Job) -> None:
            done = max(job.rows_done, job.progress * job.rows)
            text = f"{title or job.model} {job.status}"
            shown.update(task, description=text, total=job.rows, completed=done)

        yield watch
