"""A service of tiny models, for the tests of the page's tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend
from services.serving.process_metrics import ProcessMetrics
from tests.e2e.page_fixtures import Opener, served
from tests.tiny_models import MODELS, Shelf
from tests.tiny_style import StyleEngine, tiny_style


@contextmanager
def tiny_site(folder: Path, **settings: Any) -> Iterator[str]:
    """The URL of a service of tiny models, ``tiny-FAMILY``, one of which mixes styles."""
    registry = CollectorRegistry()
    shelf = Shelf(
        {**{f"tiny-{family}": build for family, build in MODELS.items()}, "tiny-style": tiny_style}
    )
    backend = InProcessBackend(
        shelf,
        {**discover(), "style": StyleEngine},
        observer=ProcessMetrics(registry).of_pool("default"),
    )
    own = {"key_file": folder / "keys.json", "provenance": {"enabled": False}, **settings}
    app = create_app(backend, GatewaySettings(**own), metrics=GatewayMetrics(registry))
    try:
        with served(app) as url:
            yield url
    finally:
        backend.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service of tiny models."""
    with tiny_site(tmp_path_factory.mktemp("tools")) as url:
        yield url


@pytest.fixture
def open_tiny(open_page: Opener) -> Opener:
    """Opens pages over tiny models, which have no sheets: the browser's console says so."""
    return partial(open_page, expected=("status of 404",))
