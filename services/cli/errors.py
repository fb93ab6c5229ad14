"""How a command that fails says so: one sentence on stderr, exit code 1, no traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.markup import escape

from services.core.errors import AtelierError


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Show an error that the caller can act on as a sentence, and exit with 1."""
    try:
        yield
    except (AtelierError, OSError) as error:
        text = error.message if isinstance(error, AtelierError) else str(error)
        Console(stderr=True, soft_wrap=True).print(f"[red]{escape(text)}[/red]")
        raise typer.Exit(1) from error
