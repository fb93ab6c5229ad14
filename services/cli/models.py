"""``atelier models``: what is in the store, whether it is whole, and adding to it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_store.adapters.shelf import NOUN as ADAPTER
from model_store.adapters.shelf import AdapterProblem
from model_store.signing import key_id, read_private_key
from model_store.signing import sign as sign_record
from model_store.store import Entry, FileProblem, Store, default_root
from model_store.versions import digest_of
from services.cli.adapters import adapter_summary, adapter_table, add_to_base, shown_adapter
from services.cli.audit import audited
from services.cli.errors import one_sentence
from services.core.errors import IntegrityFailure, ModelError
from services.core.versions import of_version, split_version

models = typer.Typer(
    help="List, inspect, verify, add and remove models.", no_args_is_help=True, add_completion=False
)

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="ATELIER_STORE",
        help="Folder of the user's models, or a URL such as s3://bucket/models. "
        "[default: ~/.local/share/atelier/models]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
NameArgument = Annotated[str, typer.Argument(help="The model's name.", show_default=False)]


@models.command("list")
def list_models(store: StoreOption = None, *, as_json: JsonOption = False) -> None:
    """List the models that can be served, and the adapters that hang on them."""
    with one_sentence():
        shelf = open_store(store)
        entries, adapters = shelf.entries(), shelf.adapters.listed()
    if as_json:
        found = [*map(_summary, entries), *map(adapter_summary, adapters)]
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("Name", "Family", "Image", "From", "On disk", "Description")
    for entry in entries:
        table.add_row(*(escape(text) for text in _row(entry)))
    Console().print(table)
    if adapters:
        Console().print(adapter_table(adapters, _bytes))


@models.command()
def show(name: NameArgument, store: StoreOption = None, *, as_json: JsonOption = False) -> None:
    """Show a model's manifest and the numbers on its card, or an adapter's."""
    with one_sentence():
        shelf = open_store(store)
        if shelf.adapters.holds(name):
            Console().print_json(data=shown_adapter(shelf, name))
            return
        entry = shelf.entry(name)
    manifest = entry.manifest.model_dump(mode="json", exclude_defaults=not as_json)
    if as_json:
        typer.echo(json.dumps({**_summary(entry), "manifest": manifest}, indent=2))
        return
    console = Console()
    metrics = manifest.pop("metrics", {})
    console.print(f"[bold]{escape(name)}[/bold] ({entry.origin}, {_bytes(entry.size)})")
    console.print_json(data=manifest)
    if metrics:
        table = Table("Measured on held-out data", "Value")
        for key, value in metrics.items():
            table.add_row(escape(key), escape(_number(value)))
        console.print(table)


@models.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="One model; all of them by default.", show_default=False)
    ] = None,
    store: StoreOption = None,
) -> None:
    """Read every file again and compare it with its digest; exit with 1 on a problem."""
    console, found = Console(soft_wrap=True), 0
    with one_sentence():
        shelf = open_store(store)
        names = [name] if name is not None else [*shelf.ids(), *shelf.adapters.ids()]
        for model_id in names:
            is_adapter = shelf.adapters.holds(model_id)
            problems = (shelf.adapters if is_adapter else shelf).verify(model_id)
            found += len(problems)
            for problem in problems:
                console.print(f"[red]{escape(f'{model_id}: {problem.problem}')}[/red]")
            if not problems:
                console.print(f"[green]{escape(model_id)}: every file is as stored[/green]")
    if found:
        raise typer.Exit(1)


@models.command()
def add(
    path: Annotated[
        Path,
        typer.Argument(
            help="A folder with manifest.json or manifest.yaml, a diffusers folder, or a single "
            ".onnx file. With --base: a .safetensors file (LoRA, textual inversion) or a "
            "ControlNet's folder.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="What to call it.", show_default="as its manifest says")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="gan, vae, flow, diffusion ...", show_default="as its manifest says"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The model that an adapter is for.", show_default=False),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="The word of a textual inversion.", show_default="as its file says"),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Check a model, try its networks, and store it; a running server serves it at once.

    With --base it is an adapter: a LoRA, a textual inversion, or a ControlNet of that model.
    """
    if base is not None or token is not None:
        with one_sentence(), audited("adapter.added") as said:
            said.update(path=str(path), name=name, base=base)
            add_to_base(open_store(store), path, name=name, base=base, token=token, family=family)
        return
    from model_store.addition import add_model  # noqa: PLC0415 - torch takes a second to import

    console = Console(soft_wrap=True)
    with (
        one_sentence(),
        audited("model.added") as said,
        console.status("trying its networks"),
    ):
        addition = add_model(open_store(store), path, name=name, family=family)
        said.update(model=addition.manifest.id, path=str(path))
    for note in addition.notes:
        console.print(f"[dim]{escape(note)}[/dim]")
    manifest = addition.manifest
    console.print(f"[green]added '{manifest.id}' of family '{escape(manifest.family)}'[/green]")


@models.command()
def update(
    path: Annotated[
        Path, typer.Argument(help="As for `add`: a folder, or an .onnx file.", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Option(help="Of which model.", show_default="as its manifest says")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="gan, vae ...", show_default="as its manifest says")
    ] = None,
    *,
    stage: Annotated[
        bool, typer.Option("--stage", help="Store it, and go on serving the one before.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Store a new version of one of your models, and serve it.

    A running server loads it first and then serves it in place of the one before, which is kept:
    requests under way end on the version that they began with. With --stage nobody gets it before
    `atelier models serve` or `canary`, unless they ask for it as NAME@DIGEST.
    """
    from model_store.addition import add_version  # noqa: PLC0415 - torch takes a second to import

    console = Console(soft_wrap=True)
    with one_sentence(), audited("model.updated") as said:
        shelf = open_store(store)
        with console.status("trying its networks"):
            addition = add_version(shelf, path, name=name, family=family)
        manifest, digest = addition.manifest, digest_of(addition.manifest)
        said.update(model=manifest.id, path=str(path), digest=digest, served=not stage)
        if not stage:
            shelf.serve(manifest.id, digest)
    for note in addition.notes:
        console.print(f"[dim]{escape(note)}[/dim]")
    done = "stored" if stage else "stored and served"
    console.print(f"[green]{done}: {of_version(manifest.id, digest)}[/green]")


@models.command()
def remove(name: NameArgument, store: StoreOption = None) -> None:
    """Remove one of your models or adapters, or NAME@DIGEST, and the files that no other uses."""
    with one_sentence(), audited("model.removed") as said:
        said["model"] = name
        shelf = open_store(store)
        if shelf.adapters.holds(name):
            shelf.adapters.remove(name)
        else:
            shelf.remove(name)
    Console(soft_wrap=True).print(f"removed '{escape(name)}'")


@models.command()
def sign(
    name: NameArgument,
    key: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="An Ed25519 private key in PEM: openssl genpkey -algorithm ed25519 -out FILE",
        ),
    ],
    store: StoreOption = None,
) -> None:
    """Vouch for one of your models or adapters, for servers that ask for it.

    A server that has ATELIER_MODELS__PUBLIC_KEYS set serves only what one of those keys has signed.
    """
    with one_sentence(), audited("model.signed") as said:
        shelf = open_store(store)
        private = read_private_key(key)
        said.update(model=name, key=key_id(private.public_key()))
        _, version = split_version(name)
        if shelf.adapters.holds(name):
            adapter = shelf.adapters.get(name)
            _whole(name, shelf.adapters.verify(name))
            with shelf.user.writing():
                made = sign_record(adapter, shelf.adapters.root, private, noun=ADAPTER)
        else:
            entry = shelf.entry(name)
            if entry.origin != shelf.user.origin:
                raise ModelError(f"'{name}' comes with the code, and is trusted as the code is")
            _whole(name, shelf.verify(name))
            kept = digest_of(entry.manifest) if version else ""
            with shelf.user.writing():
                made = sign_record(entry.manifest, shelf.user.root, private, version=kept)
    Console(soft_wrap=True).print(f"signed '{escape(name)}' by the key {made.key[:16]}...")


def _whole(name: str, problems: Sequence[FileProblem | AdapterProblem]) -> None:
    """Nobody vouches for files that are not those of the manifest."""
    if problems:
        raise IntegrityFailure(f"'{name}' is not signed: {problems[0].problem}")


def open_store(root: str | None) -> Store:
    """The store that a command is told of, whoever signed what is in it."""
    return Store(root or default_root(os.environ))


def _summary(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "id": manifest.id,
        "family": manifest.family,
        "resolution": list(manifest.resolution),
        "channels": manifest.channels,
        "networks": sorted(manifest.networks),
        "origin": entry.origin,
        "bytes": entry.size,
        "description": manifest.description,
    }


def _row(entry: Entry) -> tuple[str, ...]:
    manifest = entry.manifest
    height, width = manifest.resolution
    return (
        manifest.id,
        manifest.family,
        f"{height} x {width} x {manifest.channels}",
        entry.origin,
        _bytes(entry.size),
        manifest.description,
    )


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
