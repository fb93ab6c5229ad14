"""``atelier jobs ...``: work that a server does later, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli import options
from services.cli.errors import one_sentence
from services.cli.pictures import read_picture
from services.client import AtelierClientError, Client, Job, progress_bar
from services.core.errors import AtelierError, InvalidParameter

DEFAULT_URL = "http://127.0.0.1:8000"

jobs = typer.Typer(
    help="Submit durable jobs to a server, follow them, and fetch what they made.",
    no_args_is_help=True,
    add_completion=False,
)

SUBMIT_EXAMPLES = """
[bold]Examples[/bold]

atelier jobs submit generate shapes-ldm --set prompt="a large red star" --set n=16 --watch

atelier jobs submit bulk shapes-cgan --set grid='{"label": [0, 1, 2]}' --set n=500

atelier jobs submit likelihood digits-realnvp --image digit.png

atelier jobs submit edit shapes-ldm --image star.png --set operation=variation --set strength=0.6

[bold]Then[/bold]

atelier jobs watch JOB && atelier jobs fetch JOB --out results/
"""

ServerUrl = Annotated[
    str, typer.Option("--url", envvar="ATELIER_URL", help="The server.", show_default=True)
]
JobArgument = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


@contextlib.contextmanager
def asking(url: str, api_key: str | None) -> Iterator[Client]:
    """A client of the server, whose errors become those of the command line.

    Raises:
        AtelierError: what the server refused, or that nobody answered.
    """
    try:
        with Client(url, api_key=api_key) as client:
            yield client
    except AtelierClientError as error:
        raise AtelierError(str(error)) from error


@jobs.command(epilog=SUBMIT_EXAMPLES)
def submit(
    task: Annotated[
        str,
        typer.Argument(help="generate, edit, likelihood, encode or bulk.", show_default=False),
    ],
    model: options.Model,
    *,
    image: Annotated[
        list[str] | None,
        typer.Option(help="An image to start from, or to judge; - is standard input."),
    ] = None,
    mask: Annotated[str | None, typer.Option(help="Where to edit.")] = None,
    others: options.Others = None,
    request: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A file with the request's fields as JSON; --set goes beside it.",
        ),
    ] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="At most the key's.")] = None,
    deadline: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds after which the job fails.")
    ] = None,
    ttl: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds for which it is kept after its end.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="A URL that is told of its end.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--key", help="The same key and request give the same job for a day."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: ServerUrl = DEFAULT_URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Have a server accept work, and print the job's id."""
    with one_sentence(), asking(url, api_key) as client:
        fields = options.with_others(_fields_of(request), others)
        fields.pop("model", None)
        files: dict[str, Any] = {}
        if image:
            files["images"] = [read_picture(name) for name in image]
        if mask is not None:
            files["mask"] = read_picture(mask)
        job = client.jobs.submit(
            task,
            model,
            priority=priority,
            deadline_seconds=deadline,
            ttl_seconds=ttl,
            webhook=webhook,
            idempotency_key=idempotency_key,
            extra=fields,
            **files,
        )
        if watch:
            typer.echo(job.id, err=True)
            job = _followed(client, job.id)
        _show(job, as_json=as_json, brief=not watch)


@jobs.command("list")
def list_jobs(
    *,
    status: Annotated[
        str | None,
        typer.Option(help="queued, running, succeeded, failed or canceled.", show_default="all"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of one model.", show_default="all")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    url: ServerUrl = DEFAULT_URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first."""
    with one_sentence(), asking(url, api_key) as client:
        page = client.jobs.list(status=status, model=model, limit=limit)
    if as_json:
        typer.echo(json.dumps([job.model_dump(by_alias=True) for job in page.jobs], indent=2))
        return
    table = Table("Job", "Task", "Model", "Status", "Done", "Created")
    for job in page.jobs:
        done = f"{job.rows_done}/{job.rows}"
        when = _moment(job.created)
        table.add_row(job.id, job.task, escape(job.model), job.status, done, when)
    Console(soft_wrap=True).print(table)


@jobs.command()
def show(
    job: JobArgument,
    *,
    url: ServerUrl = DEFAULT_URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Say how a job is."""
    with one_sentence(), asking(url, api_key) as client:
        _show(client.jobs.get(job), as_json=as_json)


@jobs.command()
def watch(
    job: JobArgument,
    *,
    url: ServerUrl = DEFAULT_URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Follow a job to its end; exits with 1 where it failed."""
    with one_sentence(), asking(url, api_key) as client:
        _show(_followed(client, job), as_json=as_json)


@jobs.command()
def cancel(
    job: JobArgument, *, url: ServerUrl = DEFAULT_URL, api_key: options.ApiKey = None
) -> None:
    """End a job that is not done."""
    with one_sentence(), asking(url, api_key) as client:
        typer.echo(client.jobs.cancel(job).status)


@jobs.command()
def fetch(
    job: JobArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder.")] = Path(),
    url: ServerUrl = DEFAULT_URL,
    api_key: options.ApiKey = None,
) -> None:
    """Fetch every file that a job made, each checked against its SHA-256."""
    with one_sentence(), asking(url, api_key) as client:
        _followed(client, job)
        for place in client.jobs.download(job, out):
            typer.echo(str(place))


def _followed(client: Client, job_id: str) -> Job:
    """A job at its end.

    Raises:
        AtelierError: it failed, or was canceled.
    """
    with progress_bar(job_id) as told:
        job = client.jobs.wait(job_id, watch=told)
    if job.status != "succeeded":
        raise AtelierError(f"{job.id}: {job.error.message if job.error else job.status}")
    return job


def _fields_of(file: Path | None) -> dict[str, Any]:
    """What a file says of a request.

    Raises:
        InvalidParameter: it holds no JSON object.
    """
    try:
        found = {} if file is None else json.loads(file.read_bytes())
    except ValueError as error:
        raise InvalidParameter(f"'{file}' is no JSON: {error}", param="request") from error
    if not isinstance(found, dict):
        raise InvalidParameter(f"'{file}' holds no JSON object", param="request")
    return found


def _show(job: Job, *, as_json: bool, brief: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps(job.model_dump(by_alias=True), indent=2))
        return
    if brief:
        typer.echo(job.id)
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{job.id}  {job.status}  {job.rows_done}/{job.rows}  {escape(job.model)}")
    if job.error is not None:
        console.print(f"[red]{escape(job.error.message)}[/red]")
    for file in job.artefacts:
        console.print(f"{file.index}  {escape(file.name)}  {file.bytes} bytes  {file.sha256[:12]}")
    for row in job.rows_of_result or []:
        if "url" not in row:
            console.print(escape(json.dumps(row)))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
