"""``atelier inspect``: what an image says of where it comes from, and whether that holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli.errors import one_sentence
from services.cli.pictures import read_picture

if TYPE_CHECKING:
    from services.provenance.inspection import Inspection

INSPECT_HELP = """
Exits with 1 if there is a manifest and it is [red]invalid[/red]: the file was changed, or forged.

[bold]Examples[/bold]

atelier inspect star.png

atelier inspect --json star.png | jq .parameters.request
"""
INVALID_EXIT = 1

_VERDICTS = {
    "absent": ("yellow", "none: nobody vouches for this file"),
    "trusted": ("green", "valid: unchanged since it was signed, by a certificate trusted here"),
    "untrusted": ("cyan", "valid: unchanged since it was signed, by somebody not known here"),
    "invalid": ("red", "INVALID: the file is not what was signed"),
}


def inspect(
    image: Annotated[str, typer.Argument(help="A PNG, JPEG or WebP; - is standard input.")],
    *,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="PEM certificates of authorities to trust.",
            show_default="this installation's own",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print an image's parameters, and the verdict on its C2PA manifest."""
    with one_sentence():
        from services.provenance import inspection  # noqa: PLC0415 - a native library

        found = inspection.inspect(read_picture(image), _anchors(trust))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    if found.manifest.verdict == "invalid":
        raise typer.Exit(INVALID_EXIT)


def _anchors(trust: list[Path] | None) -> list[bytes]:
    """The certificates of the files that are named, else this installation's own, if it has any."""
    if trust:
        return [path.read_bytes() for path in trust]
    from services.gateway.settings import GatewaySettings  # noqa: PLC0415 - with the above
    from services.provenance.credentials import known_anchor  # noqa: PLC0415 - as above

    settings = GatewaySettings()
    anchor = known_anchor(settings.provenance, settings.provenance_folder)
    return [] if anchor is None else [anchor]


def _show(found: Inspection) -> None:
    console = Console(soft_wrap=True, highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _rows(found):
        table.add_row(name, value)
    console.print(table)
    if found.parameters is not None:
        console.print_json(data=found.parameters)


def _rows(found: Inspection) -> Iterator[tuple[str, str]]:
    """Lines of the report; whatever stands in the file is shown as plain text."""
    manifest = found.manifest
    color, verdict = _VERDICTS[manifest.verdict]
    size = "broken" if found.width is None else f"{found.width}x{found.height}"
    yield "image", f"{found.media_type}, {size}"
    yield "manifest", f"[{color}]{verdict}[/{color}]"
    told = {
        "problems": ", ".join(manifest.problems),
        "signed by": manifest.signer,
        "software": manifest.claim_generator,
        "actions": ", ".join(manifest.actions),
        "source type": found.source_type or ", ".join(manifest.source_types),
    }
    for name, value in told.items():
        if value:
            yield name, _plain(value)
    for name, value in (manifest.generation or {}).items():
        yield name, _plain(value if isinstance(value, str) else json.dumps(value))
    for one in manifest.ingredients:
        own = "with a manifest of its own" if one.manifest else "without a manifest"
        wrong = f", which is wrong: {', '.join(one.problems)}" if one.problems else ""
        yield "made from", _plain(f"{one.title} ({one.relationship}), {own}{wrong}")
    if found.parameters is None:
        yield "parameters", "none in the file"


def _plain(text: str) -> str:
    """Text of a stranger's: no style, and no word to the terminal."""
    return escape("".join(sign if sign.isprintable() else "\ufffd" for sign in text))
