"""``atelier webhooks ...``: what verifies the webhooks of a key's jobs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli import options
from services.cli.errors import one_sentence
from services.cli.jobs import DEFAULT_URL, JobArgument, ServerUrl, asking

webhooks = typer.Typer(
    help="Show and rotate the secret that signs webhooks, and see what became of them.",
    no_args_is_help=True,
    add_completion=False,
)


@webhooks.command()
def secret(*, url: ServerUrl = DEFAULT_URL, api_key: options.ApiKey = None) -> None:
    """Print the secret: libraries of Standard Webhooks verify with it."""
    with one_sentence(), asking(url, api_key) as client:
        typer.echo(client.jobs.webhook_secret())


@webhooks.command()
def rotate(*, url: ServerUrl = DEFAULT_URL, api_key: options.ApiKey = None) -> None:
    """Make a new secret and print it; the one before signs beside it for a while."""
    with one_sentence(), asking(url, api_key) as client:
        typer.echo(client.jobs.rotate_webhook_secret())


@webhooks.command()
def deliveries(
    job: JobArgument,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only those not delivered.")] = False,
    url: ServerUrl = DEFAULT_URL,
    api_key: options.ApiKey = None,
) -> None:
    """What was and is to be told of a job."""
    with one_sentence(), asking(url, api_key) as client:
        found = client.jobs.deliveries(job)
    table = Table("Event", "State", "Attempts", "Last", "URL")
    for one in found:
        if not (failed and one.state == "delivered"):
            said = escape(one.said or "")
            table.add_row(one.event, one.state, str(one.attempts), said, escape(one.url))
    Console(soft_wrap=True).print(table)
