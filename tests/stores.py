"""What tests of the store look at, and a file that would tell if it were unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_store.addition import add_model
from model_store.store import Store
from services.core.errors import ModelError


def blobs(store: Store) -> list[Path]:
    """The files of the user's models."""
    return sorted((store.user.root / "blobs").iterdir())


def nothing_stored(store: Store) -> bool:
    """Whether the store is as empty as it was made."""
    return not store.list() and not (store.user.root / "blobs").exists()


def refused(store: Store, folder: Path, kind: type[ModelError], match: str) -> None:
    """Assert that a folder is refused and leaves nothing behind."""
    with pytest.raises(kind, match=match):
        add_model(store, folder)
    assert nothing_stored(store)


class Canary:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        """Take the file."""
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """See `pickle`."""
        return Path.touch, (self.path,)
