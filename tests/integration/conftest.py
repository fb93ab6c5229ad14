"""What tests of imported folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline_shelf import Shelf


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield Shelf(tmp_path_factory.mktemp("pipelines"))
