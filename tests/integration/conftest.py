"""What tests of imported folders share, and that all tests here take their time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline_shelf import Shelf


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines, databases and processes: none of it belongs to the quick tests."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield Shelf(tmp_path_factory.mktemp("pipelines"))
