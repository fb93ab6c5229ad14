"""Run the demonstration: ``python -m services.demo``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from services.core.errors import AtelierError
from services.demo.exhibits import Exhibit, Service
from services.demo.server import running_server
from services.demo.sheet import contact_sheet
from services.demo.tour import tour

EXHIBITS = 8
OUT = Path("out")
CONFIG = Path(__file__).parents[2] / "deploy" / "serve.yaml"

NEXT = """
[bold]What to try next[/bold]

  make serve                                        [dim]# keeps the service up[/dim]

  curl -s localhost:8000/v1/generate -d '{"model":"shapes-ldm","prompt":"a large red star on \
black","seed":7}' -H 'accept: image/png' -H 'content-type: application/json' -o star.png
  curl -s localhost:8000/v1/likelihood -F model=digits-realnvp -F image=@digit.png

  .venv/bin/atelier generate shapes-ldm "a small blue ring on white" --out ring.png
  .venv/bin/atelier likelihood digits-realnvp out/digits-realnvp-0.png
  .venv/bin/atelier --help

  http://localhost:8000/docs                        [dim]# every route, with examples[/dim]
"""


def main() -> int:
    """Run the demonstration; returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _end)
    try:
        exhibits = collect(console)
    except (AtelierError, httpx.HTTPError) as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    files = write(exhibits, OUT)
    console.print(summary(exhibits))
    console.print(f"{len(files)} images under {OUT}/, all of them on {OUT}/contact_sheet.png")
    console.print(NEXT)
    return 0


def collect(console: Console) -> list[Exhibit]:
    """Everything that the tour asks for, from a service that lives no longer than it."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
    )
    exhibits = []
    with running_server(console, CONFIG) as url, httpx.Client(base_url=url) as client, progress:
        bar = progress.add_task("asking for an image of every family", total=EXHIBITS)
        for exhibit in tour(Service(client)):
            exhibits.append(exhibit)
            progress.update(bar, advance=1, description=exhibit.title)
    return exhibits


def write(exhibits: Sequence[Exhibit], folder: Path) -> list[Path]:
    """Every image as a file, and the contact sheet beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for exhibit in exhibits:
        for index, image in enumerate(exhibit.images):
            path = folder / f"{exhibit.name}-{index}.png"
            path.write_bytes(image)
            written.append(path)
    contact_sheet(exhibits).save(folder / "contact_sheet.png")
    return written


def summary(exhibits: Sequence[Exhibit]) -> Table:
    """What was asked, and how long it took."""
    table = Table("asked for", "images", "seconds", "note")
    for exhibit in exhibits:
        row = (exhibit.title, str(len(exhibit.images)), f"{exhibit.seconds:.2f}", exhibit.note)
        table.add_row(*(escape(text) for text in row))
    return table


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    """Told to end, end as on Ctrl-C: the service is stopped on the way out."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
