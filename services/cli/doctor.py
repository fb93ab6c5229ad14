"""``atelier doctor``: what this machine has, and what would make it faster or safer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli import options
from services.cli.checks import CHECKS, Finding, Surroundings

DOCTOR_HELP = """
Exits with 1 if something is [red]broken[/red]; a [yellow]warning[/yellow] costs speed or safety.
With --strict, warnings end with 1 as well.
"""

_COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "broken": "red"}


def doctor(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where you mean to serve.")] = 8000,
    config: Annotated[Path, typer.Option(dir_okay=False, help="What you mean to serve by.")] = Path(
        "deploy/serve.yaml"
    ),
    strict: Annotated[
        bool, typer.Option("--strict", help="Let warnings end with 1, as what is broken does.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Look this machine over: runtimes, hardware, models, settings, and what could be better."""
    findings: list[Finding] = []
    surroundings = Surroundings(port=port, config=config)
    with Console(stderr=True).status("looking") as status:
        for name, check in CHECKS.items():
            status.update(f"looking at {name}")
            findings += check(surroundings)
    counts = {level: sum(f.level == level for f in findings) for level in ("broken", "warning")}
    if as_json:
        typer.echo(json.dumps({**counts, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        console = Console()
        console.print(table_of(findings))
        console.print(f"{counts['broken']} broken, {counts['warning']} warnings")
    if counts["broken"] or (strict and counts["warning"]):
        raise typer.Exit(1)


def table_of(findings: Sequence[Finding]) -> Table:
    """One row for each finding."""
    table = Table(show_lines=False)
    for column in ("", "what", "found", "why it matters", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        color = _COLORS[finding.level]
        table.add_row(
            f"[{color}]{finding.level}[/{color}]",
            escape(finding.subject),
            escape(finding.found),
            escape(finding.why),
            escape(finding.advice),
        )
    return table
