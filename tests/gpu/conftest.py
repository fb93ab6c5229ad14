"""Tests of a CUDA device; without one they are skipped, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, and skip it where there is no CUDA device."""
    missing = pytest.mark.skip(reason="needs a CUDA device; torch sees none")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(missing)


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """The first CUDA device."""
    return torch.device("cuda", 0)
