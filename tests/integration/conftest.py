"""What tests here share, folders and databases, and that all of them take their time."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.jobs.database import Database
from tests.pipeline_shelf import Shelf
from tests.postgres import Postgres, binaries


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real server; each test makes a database of its own."""
    if binaries() is None:
        pytest.skip("no PostgreSQL is installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database for jobs, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.make(f"jobs_{uuid.uuid4().hex}")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """The database of that URL, open."""
    opened = Database(url)
    await opened.open()
    yield opened
    await opened.close()
