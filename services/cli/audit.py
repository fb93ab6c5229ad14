"""``atelier audit ...``: who did what, and whether the log is whole."""

from __future__ import annotations

import contextlib
import getpass
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from services.cli.errors import one_sentence
from services.core.errors import InvalidParameter
from services.gateway.audit_check import tail as last_events
from services.gateway.audit_check import verify as check
from services.gateway.audit_log import AuditLog, Link
from services.gateway.settings import GatewaySettings

audit = typer.Typer(
    help="Read and verify the audit log.", no_args_is_help=True, add_completion=False
)

FolderOption = Annotated[
    Path | None,
    typer.Option(
        help="Of the log. [default: audit, beside the key file]",
        envvar="ATELIER_AUDIT__FOLDER",
        show_default=False,
    ),
]


@audit.command()
def verify(
    folder: FolderOption = None,
    *,
    head: Annotated[
        str | None,
        typer.Option(
            help="A head that an earlier verify printed: the log must still hold it.",
            show_default=False,
        ),
    ] = None,
    first: Annotated[
        int, typer.Option("--from", min=1, help="The first line, where older ones were archived.")
    ] = 1,
) -> None:
    """Check that no line was changed, removed or added; exit with 1 if one was."""
    with one_sentence():
        noted = None if head is None else Link.parse(head)
        found = check(_folder(folder), noted=noted, first=first)
    Console(soft_wrap=True).print(
        f"[green]{found.lines} lines in {found.files} files are whole[/green]; head {found.head}",
        highlight=False,
    )


@audit.command()
def tail(
    folder: FolderOption = None,
    *,
    lines: Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many.")] = 20,
) -> None:
    """Print the last events as JSON lines, oldest first."""
    with one_sentence():
        found = last_events(_folder(folder), lines)
    for event in found:
        typer.echo(json.dumps(event))


@contextlib.contextmanager
def audited(event: str, key_file: Path | None = None) -> Iterator[dict[str, Any]]:
    """Write down what an operator does, where a log is kept; yields what the line is to say.

    A log is kept where the settings say so, or where a service has begun one. Nothing is done
    where it cannot be written.

    Raises:
        AuditUnavailable: it cannot be written.
    """
    settings = gateway_settings(key_file)
    kept = settings.audit.enabled or settings.audit_folder.is_dir()
    log = AuditLog(settings.audit_folder, settings.audit) if kept else None
    said: dict[str, Any] = {}
    yield said
    if log is not None:
        log.write({"event": event, "operator": getpass.getuser(), **said})


def gateway_settings(key_file: Path | None) -> GatewaySettings:
    """The settings of this environment.

    Raises:
        InvalidParameter: a variable holds what it may not.
    """
    given: dict[str, Any] = {} if key_file is None else {"key_file": key_file}
    try:
        return GatewaySettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "__".join(str(part) for part in first["loc"]).upper()
        raise InvalidParameter(f"ATELIER_{name}: {first['msg']}") from error


def _folder(folder: Path | None) -> Path:
    return folder if folder is not None else gateway_settings(None).audit_folder
