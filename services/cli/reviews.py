"""``atelier reviews ...``: decide on what policies hold, on the machine that keeps it."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli.audit import audited, gateway_settings
from services.cli.errors import one_sentence
from services.policies.review_words import Review, ReviewStatus
from services.policies.reviews import ReviewStore

T = TypeVar("T")

reviews = typer.Typer(
    help="List what policies hold, look at it, approve or reject it.",
    no_args_is_help=True,
    add_completion=False,
)

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="ATELIER_KEY_FILE",
        help="The key file, beside which reviews are kept. [default: ~/.local/state/atelier/"
        "keys.json]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
WhichArgument = Annotated[str, typer.Argument(help="The review's id.", show_default=False)]
NoteOption = Annotated[str, typer.Option(help="What the requester is told with the decision.")]


@reviews.command("list")
def list_reviews(
    file: FileOption = None,
    *,
    status: Annotated[
        ReviewStatus | None, typer.Option(help="Of one status only.", show_default="all")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List reviews, oldest first."""
    found = _asked(file, lambda store: store.list(status=status))
    if as_json:
        typer.echo(json.dumps([_plain(review) for review in found], indent=2))
        return
    table = Table("Id", "Status", "Since", "Model", "Images", "Policy", "Asked for")
    for review in found:
        asked = review.request
        words = "; ".join(text for texts in asked.texts.values() for text in texts)
        table.add_row(
            review.id,
            review.status.value,
            datetime.fromtimestamp(review.created, UTC).strftime("%Y-%m-%d %H:%M UTC"),
            escape(asked.model),
            str(review.image_count),
            asked.policy,
            escape(ascii(words)[1:-1][:80]),
        )
    Console().print(table)


@reviews.command()
def show(
    review: WhichArgument,
    file: FileOption = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="A folder to write the images to.", file_okay=False)
    ] = None,
) -> None:
    """Show what was asked for, and write the images to a folder."""
    found = _asked(file, lambda store: store.get(review))
    typer.echo(json.dumps(_plain(found), indent=2))
    if out is None:
        return
    images = _asked(file, lambda store: store.images(found.id))
    with one_sentence():
        out.mkdir(parents=True, exist_ok=True)
        for place, image in enumerate(images):
            path = out / f"{found.id}-{place}.{found.request.format}"
            path.write_bytes(image)
            typer.echo(str(path), err=True)


@reviews.command()
def approve(review: WhichArgument, file: FileOption = None, *, note: NoteOption = "") -> None:
    """Let the images go to who asked for them."""
    _decide(review, file, ReviewStatus.APPROVED, note)


@reviews.command()
def reject(review: WhichArgument, file: FileOption = None, *, note: NoteOption = "") -> None:
    """Delete the images."""
    _decide(review, file, ReviewStatus.REJECTED, note)


def _decide(review: str, file: Path | None, status: ReviewStatus, note: str) -> None:
    by = f"operator {getpass.getuser()}"
    with one_sentence(), audited(f"review.{status.value}", file) as said:
        said["review"] = review
        found = _answer(file, lambda store: store.decide(review, status, by=by, note=note))
        said.update(model=found.request.model, request_id=found.request.request_id)
    Console(soft_wrap=True).print(f"{status.value} {found.id}")


def _asked(file: Path | None, ask: Callable[[ReviewStore], Coroutine[Any, Any, T]]) -> T:
    with one_sentence():
        return _answer(file, ask)


def _answer(file: Path | None, ask: Callable[[ReviewStore], Coroutine[Any, Any, T]]) -> T:
    settings = gateway_settings(file)
    store = ReviewStore(settings.policies.review, settings.key_path.parent)
    try:
        return asyncio.run(ask(store))
    finally:
        store.close()


def _plain(review: Review) -> dict[str, Any]:
    request = {name: value for name, value in asdict(review.request).items() if name != "images"}
    return {**asdict(review), "request": request}
