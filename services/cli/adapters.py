"""What ``atelier models`` does with adapters: LoRAs, textual inversions and ControlNets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_store.store import Store
from services.core.adapters import KIND_WORDS, AdapterInfo
from services.core.errors import InvalidParameter

_ASKED_BY = {
    "lora": 'adapters=[{{"name": "{name}"}}]',
    "controlnet": 'control=[{{"name": "{name}", "image": ...}}]',
    "textual_inversion": "{token} in a prompt",
}


def add_to_base(
    store: Store,
    path: Path,
    *,
    name: str | None,
    base: str | None,
    token: str | None,
    family: str | None,
) -> None:
    """Check an adapter against its model and store it; says what was made of it.

    Raises:
        InvalidParameter: an option does not go with an adapter.
        AtelierError: see `model_store.adapters.addition.add_adapter`.
    """
    if base is None:
        raise InvalidParameter("--token goes with --base, the model that learns the word")
    if family is not None:
        raise InvalidParameter("an adapter has no --family; its model has one")
    from model_store.adapters.addition import add_adapter  # noqa: PLC0415 - torch takes a second

    console = Console(soft_wrap=True)
    with console.status(f"trying it on {base}"):
        added = add_adapter(store, path, base=base, name=name, token=token)
    for note in added.notes:
        console.print(f"[dim]{escape(note)}[/dim]")
    manifest = added.manifest
    use = _ASKED_BY[manifest.kind].format(name=manifest.id, token=manifest.token)
    console.print(
        f"[green]added '{manifest.id}', {KIND_WORDS[manifest.kind]} for '{base}'; ask for it by "
        f"{escape(use)}[/green]"
    )


def adapter_summary(adapter: AdapterInfo) -> dict[str, Any]:
    """One of the entries of ``models list --json``; ``kind`` tells it from a model."""
    return {
        "id": adapter.name,
        "kind": adapter.kind,
        "base": adapter.base,
        "token": adapter.token,
        "origin": "user",
        "bytes": adapter.size,
        "details": adapter.details,
        "description": adapter.description,
    }


def adapter_table(adapters: Sequence[AdapterInfo], size: Callable[[int], str]) -> Table:
    """Adapters below the models that they hang on; ``size`` writes a number of bytes."""
    table = Table("Adapter", "Kind", "For", "Word", "On disk")
    for adapter in adapters:
        row = (adapter.name, adapter.kind, adapter.base, adapter.token or "", size(adapter.size))
        table.add_row(*(escape(text) for text in row))
    return table


def shown_adapter(store: Store, name: str) -> dict[str, Any]:
    """What is kept of an adapter, as plain values."""
    kept: dict[str, Any] = store.adapters.get(name).model_dump(mode="json", exclude_none=True)
    return kept
