"""What unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import pytest
import torch

from model_store.store import Store
from services.runtime.loop import Loop
from tests.scripted import Gate


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Networks of a few numbers are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_keys_of_the_developers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have keys of their own."""
    monkeypatch.setenv("ATELIER_KEY_FILE", str(tmp_path / "keys.json"))


@pytest.fixture(autouse=True, scope="session")
def _images_as_they_were_encoded() -> Iterator[None]:
    """No two signed files are the same; what signing does has tests of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("ATELIER_PROVENANCE__ENABLED", "false")
        yield


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A running loop that is stopped when the test is over."""
    running = Loop(Lock(), queue_seconds=30.0)
    yield running
    running.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Holds every step; opened when the test is over, so that the loop can stop."""
    found = Gate("step")
    yield found
    found.open()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of the user's models alone, with none yet."""
    return Store(tmp_path / "store", catalogs=())
