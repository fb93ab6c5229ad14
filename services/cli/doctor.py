"""``atelier doctor``: what this machine has, and what would make it faster or safer."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli.checks import CHECKS, Finding, Surroundings

DOCTOR_HELP = """
Exits with 1 if something is [red]broken[/red]; a [yellow]warning[/yellow] costs speed or safety.
"""

_COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "broken": "red"}


def doctor(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where you mean to serve.")] = 8000,
) -> None:
    """Look this machine over: runtimes, hardware, memory, models, and what could be better."""
    findings: list[Finding] = []
    surroundings = Surroundings(port=port)
    with Console(stderr=True).status("looking") as status:
        for name, check in CHECKS.items():
            status.update(f"looking at {name}")
            findings += check(surroundings)
    table = Table(show_lines=False)
    for column in ("", "what", "found", "advice"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        color = _COLORS[finding.level]
        table.add_row(
            f"[{color}]{finding.level}[/{color}]",
            finding.subject,
            escape(finding.found),
            escape(finding.advice),
        )
    console = Console()
    console.print(table)
    broken = sum(finding.level == "broken" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    console.print(f"{broken} broken, {warnings} warnings")
    if broken:
        raise typer.Exit(1)
