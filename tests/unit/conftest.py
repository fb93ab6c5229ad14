"""What unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import pytest
import torch

from services.runtime.loop import Loop


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Networks of a few numbers are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A running loop that is stopped when the test is over."""
    running = Loop(Lock(), queue_seconds=30.0)
    yield running
    running.close()
