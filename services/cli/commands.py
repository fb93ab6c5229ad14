"""``atelier ...``: the service from a terminal.

Heavy imports stand inside the commands that need them, so that ``--help`` comes at once.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated

import typer

from services.cli.audit import audit
from services.cli.doctor import DOCTOR_HELP, doctor
from services.cli.errors import one_sentence
from services.cli.evaluate import EVALUATE_EXAMPLES, evaluate
from services.cli.generate import EDIT_EXAMPLES, GENERATE_EXAMPLES, edit, generate
from services.cli.inspect import INSPECT_HELP, inspect
from services.cli.jobs import jobs
from services.cli.keys import keys
from services.cli.likelihood import ENCODE_EXAMPLES, LIKELIHOOD_EXAMPLES, encode, likelihood
from services.cli.models import models
from services.cli.reviews import reviews
from services.cli.rollouts import rollouts
from services.cli.tune import TUNE_EXAMPLES, tune
from services.cli.webhooks import webhooks
from services.core.errors import InvalidParameter

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - only by --public, and never without a key
SERVE_EXAMPLES = """
[bold]Examples[/bold]

atelier serve

atelier serve --port 9000

atelier keys create my-app && atelier serve --public

[bold]Then[/bold]

curl -s localhost:8000/v1/models

Every route, with examples that run as printed: http://localhost:8000/docs
"""

app = typer.Typer(
    name="atelier",
    help="Serve trained image generators: generate, edit, judge and encode images.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"atelier {importlib.metadata.version('atelier')}")
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Serve trained image generators: generate, edit, judge and encode images."""


@app.command(epilog=SERVE_EXAMPLES)
def serve(
    *,
    config: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The deployment: pools, placement, limits.",
        ),
    ] = Path("deploy/serve.yaml"),
    host: Annotated[
        str | None, typer.Option(help="Where to listen.", show_default="as the config says")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Where to listen.", show_default="as the config says"),
    ] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="Listen on every address; asks for an API key (`atelier keys`)."
        ),
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(
            envvar="ATELIER_STORE",
            help="Folder or URL of the user's models, beside the built-in catalog.",
            show_default="as the config says",
        ),
    ] = None,
) -> None:
    """Start the service and keep it up until it is told to stop (Ctrl-C, SIGTERM)."""
    with one_sentence():
        if public and host is not None:
            raise InvalidParameter("--public listens on every address: leave --host out")
        from services.serving.server import run  # noqa: PLC0415 - Ray takes seconds

        host = EVERY_ADDRESS if public else host
        run(config, host=host, port=port, store=store, report=typer.echo)


app.command(epilog=GENERATE_EXAMPLES)(generate)
app.command(epilog=EDIT_EXAMPLES)(edit)
app.command(epilog=LIKELIHOOD_EXAMPLES)(likelihood)
app.command(epilog=ENCODE_EXAMPLES)(encode)
app.command(epilog=EVALUATE_EXAMPLES)(evaluate)
models.add_typer(rollouts)
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")
app.add_typer(jobs, name="jobs")
app.add_typer(webhooks, name="webhooks")
app.add_typer(reviews, name="reviews")
app.add_typer(audit, name="audit")
app.command(epilog=INSPECT_HELP)(inspect)
app.command(epilog=DOCTOR_HELP)(doctor)
app.command(epilog=TUNE_EXAMPLES)(tune)
