"""``atelier keys ...``: who may use the service."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli.audit import audited
from services.cli.errors import one_sentence
from services.gateway.callers import LEAST_PRIORITY, MOST_PRIORITY, SCOPES, USUAL_PRIORITY
from services.gateway.key_store import KeyStore, NewKey, parse_duration
from services.gateway.keys import KeyRow, default_key_file

keys = typer.Typer(
    help="Make, list, rotate and revoke API keys; a running server follows at once.",
    no_args_is_help=True,
    add_completion=False,
)

KEYS_EXAMPLES = """
[bold]Examples[/bold]

atelier keys create web-shop --model shapes-ldm --scope generate --rate 60/min --expires 90d

atelier keys create batch --priority 2 --device-seconds 600/h

curl -s localhost:8000/v1/models -H 'Authorization: Bearer atl_...'
"""

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="ATELIER_KEY_FILE",
        help="Where keys are kept. [default: ~/.local/state/atelier/keys.json]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
WhichArgument = Annotated[str, typer.Argument(help="The key's name, or its id.")]


@keys.command(epilog=KEYS_EXAMPLES)
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.", show_default=False)],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What it may do: {', '.join(SCOPES)}.", show_default="all tasks"),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Which models it may use.", show_default="all")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="After how long it ends: 90d, 12h.", show_default="never"),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(
            min=LEAST_PRIORITY,
            max=MOST_PRIORITY,
            help="Each step up doubles its share of a busy device.",
        ),
    ] = USUAL_PRIORITY,
    rate: Annotated[
        str | None, typer.Option(help="Requests that it may send: 60/min.", show_default="any")
    ] = None,
    device_seconds: Annotated[
        str | None,
        typer.Option(help="Seconds of the device that it may use: 600/h.", show_default="any"),
    ] = None,
    file: FileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a key, and show it this once."""
    with one_sentence(), audited("key.created", file) as said:
        ends = None if expires is None else time.time() + parse_duration(expires)
        new = _store(file).create(
            name,
            scopes=tuple(scope) if scope else None,
            models=tuple(model) if model else None,
            expires=ends,
            priority=priority,
            rate=rate,
            device_seconds=device_seconds,
        )
        said.update(_noted(new.row))
    _show_new(new, as_json=as_json)


@keys.command("list")
def list_keys(file: FileOption = None, *, as_json: JsonOption = False) -> None:
    """List keys and what they may do; never the keys themselves."""
    with one_sentence():
        rows = _store(file).rows()
    if as_json:
        typer.echo(json.dumps([_plain(row) for row in rows], indent=2))
        return
    table = Table("Name", "Id", "State", "Expires", "May do", "Models", "Priority", "Quotas")
    for row in rows:
        quotas = [
            row.rate and f"{row.rate} requests",
            row.device_seconds and f"{row.device_seconds} s",
        ]
        table.add_row(
            escape(row.name),
            row.id,
            row.state(time.time()),
            "never" if row.expires is None else _moment(row.expires),
            "all" if row.scopes is None else ", ".join(row.scopes),
            "all" if row.models is None else escape(", ".join(row.models)),
            str(row.priority),
            ", ".join(quota for quota in quotas if quota) or "none",
        )
    Console().print(table)


@keys.command()
def rotate(
    name: WhichArgument,
    grace: Annotated[
        str, typer.Option(help="For how long the old key stays good; 0s ends it now.")
    ] = "24h",
    file: FileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a new key that may do the same, and let the old one end."""
    with one_sentence(), audited("key.rotated", file) as said:
        new = _store(file).rotate(name, grace=parse_duration(grace))
        said.update(_noted(new.row))
    _show_new(new, as_json=as_json)


@keys.command()
def revoke(name: WhichArgument, file: FileOption = None) -> None:
    """End a key now."""
    with one_sentence(), audited("key.revoked", file) as said:
        ended = _store(file).revoke(name)
        said.update(name=ended[0].name, keys=[row.id for row in ended])
    for row in ended:
        Console(soft_wrap=True).print(f"revoked '{escape(row.name)}' ({row.id})")


def _store(file: Path | None) -> KeyStore:
    return KeyStore(file if file is not None else default_key_file(os.environ))


def _noted(row: KeyRow) -> dict[str, Any]:
    """What the audit log says of a key: whose it is and what it may do."""
    return {
        "name": row.name,
        "keys": [row.id],
        "owner": row.owner,
        "scopes": row.scopes,
        "models": row.models,
    }


def _show_new(new: NewKey, *, as_json: bool) -> None:
    """The key on standard output, alone, so that it can be piped; the rest on stderr."""
    if as_json:
        typer.echo(json.dumps({"key": new.text, **_plain(new.row)}, indent=2))
        return
    typer.echo(new.text)
    Console(stderr=True, soft_wrap=True).print(
        f"[green]made '{escape(new.row.name)}'[/green]; keep it, it is shown only now"
    )


def _plain(row: KeyRow) -> dict[str, Any]:
    return {
        **row.model_dump(exclude={"digest", "owner"}),
        "state": row.state(time.time()),
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
