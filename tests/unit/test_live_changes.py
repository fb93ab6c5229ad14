"""Models change under a flood of requests, and no request is dropped."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model_store.addition import add_model, add_version
from model_store.store import Store
from services.core.errors import InvalidNetwork, ModelNotFound
from services.families import discover
from services.serving.in_process import InProcessBackend, PoolSettings
from services.serving.keeper import Keeper
from services.serving.store_source import StoreSource
from tests.engines import call
from tests.scripted import until
from tests.unit.tiny_networks import write_model

NAME = "my-gan"
CLIENTS, SEEDS, ENOUGH = 6, 3, 30


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of two versions, which make other images of the same seed."""
    folder = tmp_path_factory.mktemp("shelf")
    store = Store(folder / "store", catalogs=())
    add_model(store, write_model(folder / "one", pixel_range=[-1, 1]))
    add_version(store, write_model(folder / "two", pixel_range=[-2, 2]))
    return folder / "store"


@pytest.fixture
def kept(shelf: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(shelf, tmp_path / "kept"), catalogs=())


@pytest.fixture
def backend(kept: Store) -> Iterator[InProcessBackend]:
    started = InProcessBackend(
        StoreSource(kept, threads=1), discover(), settings=PoolSettings(drain_seconds=0.0)
    )
    keeper = Keeper(started.registry, kept, period=0.05).start()
    yield started
    keeper.close()
    started.close()


class Flood:
    """Clients that ask again as soon as they are answered; images by version and seed."""

    def __init__(self, backend: InProcessBackend) -> None:
        self.backend, self.may_be_gone = backend, False
        self.images: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        self.answers: dict[str, int] = defaultdict(int)
        self.more = asyncio.Event()

    async def client(self, number: int) -> None:
        seed = number % SEEDS
        while True:
            try:
                answer = await self.backend.run(call("generate", model=NAME, seed=seed))
            except ModelNotFound:
                if not self.may_be_gone:
                    raise
                return
            (version,), image = answer.versions.values(), answer.items[0].image
            assert image is not None
            self.images[version, seed].add(image)
            self.answers[version] += 1
            self.more.set()

    async def seen(self, version: str) -> None:
        """Wait for enough answers of a version, counted from now."""
        wanted = self.answers[version] + ENOUGH
        async with asyncio.timeout(120):
            while self.answers[version] < wanted:
                self.more.clear()
                await self.more.wait()


async def test_versions_come_and_go_under_a_flood_and_nothing_is_dropped(
    kept: Store, backend: InProcessBackend
) -> None:
    first, second = kept.versions(NAME)
    flood = Flood(backend)
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(flood.client(number))
        await flood.seen(first)
        await asyncio.to_thread(kept.serve, NAME, second)
        await flood.seen(second)
        await asyncio.to_thread(kept.serve, NAME, first)
        await flood.seen(first)
        flood.may_be_gone = True
        await asyncio.to_thread(kept.remove, NAME)
    assert flood.answers.keys() == {first, second}
    assert all(len(images) == 1 for images in flood.images.values()), "same seed, same image"
    for seed in range(SEEDS):
        assert flood.images[first, seed] != flood.images[second, seed]
    await asyncio.to_thread(until, lambda: not backend.registry.loaded(), "the memory is free")


async def test_a_named_version_is_the_same_whatever_is_served(
    kept: Store, backend: InProcessBackend
) -> None:
    first, second = kept.versions(NAME)
    ask = call("generate", model=NAME, seed=5)
    before = await backend.run(ask)
    kept.serve(NAME, second)
    for digest in (first, first[:8]):
        again = await backend.run(replace(ask, version=digest))
        assert again.items[0].image == before.items[0].image
        assert again.versions == {NAME: first}
    with pytest.raises(ModelNotFound, match="no version"):
        await backend.run(replace(ask, version="0" * 64))


async def test_a_version_that_cannot_be_loaded_takes_nothing_away(
    kept: Store, backend: InProcessBackend
) -> None:
    first, second = kept.versions(NAME)
    ask = call("generate", model=NAME, seed=5)
    before = await backend.run(ask)
    broken = backend.registry.find(f"{NAME}@{second}")
    broken.engine.setup = _fails  # type: ignore[method-assign] - as a graph that does not open
    kept.serve(NAME, second)
    await asyncio.to_thread(until, lambda: broken.failed > 0, "the attempt to load it")
    answer = await backend.run(ask)
    assert answer.versions == {NAME: first}
    assert answer.items == before.items


def _fails() -> None:
    raise InvalidNetwork("it does not open")


async def test_a_warm_model_is_loaded_before_anybody_asks(
    kept: Store, backend: InProcessBackend
) -> None:
    assert not backend.registry.loaded()
    kept.change_plan(NAME, lambda plan: plan.model_copy(update={"warm": ("",)}))
    await asyncio.to_thread(until, lambda: backend.registry.loaded() == [NAME], "it is loaded")
    served = (await backend.model(NAME)).digest
    kept.serve(NAME, kept.versions(NAME)[1])
    await asyncio.to_thread(
        until, lambda: backend.registry.serving(NAME).fingerprint != served, "the new one"
    )
    info = await backend.model(NAME)
    assert (info.loaded, info.digest) == (True, kept.versions(NAME)[0])
