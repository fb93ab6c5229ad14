"""The gateway over real engines and real jobs, and a backend that can be told to hold a call."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core.backend import PoolStatus
from services.core.job import Answer, Call, Event, Watch
from services.core.model import ModelInfo
from services.gateway.app import create_app
from services.gateway.key_store import KeyStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.jobs.composition import jobs_for
from services.jobs.settings import JobSettings
from services.serving.in_process import InProcessBackend
from tests.unit.gateway.jobs.asking import HELD, REFUSED, SMALL, Headers


class Held:
    """The engines, or a call that takes for ever, until it is withdrawn."""

    def __init__(self, backend: InProcessBackend) -> None:
        self._backend = backend
        self.hold = False
        self.calls: list[Call] = []
        self.withdrawn: list[str] = []

    async def run(self, call: Call) -> Answer:
        return await self._backend.run(call)

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        if self.hold:
            try:
                while self.hold:
                    await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                self.withdrawn.append(call.id)
                raise
        async for event in self._backend.stream(call, watch):
            yield event

    async def models(self) -> Sequence[ModelInfo]:
        return await self._backend.models()

    async def model(self, name: str) -> ModelInfo:
        return await self._backend.model(name)

    async def status(self) -> Sequence[PoolStatus]:
        return await self._backend.status()

    async def ready(self) -> bool:
        return await self._backend.ready()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("state") / "keys.json")


@pytest.fixture(scope="module")
def folder(keys: KeyStore) -> Path:
    return keys._path.parent


@pytest.fixture(scope="module")
def held(tiny_backend: InProcessBackend) -> Held:
    return Held(tiny_backend)


def _words(folder: Path, name: str, **settings: str) -> dict[str, Any]:
    file = {"file": str(folder / f"{name}.txt"), **settings}
    return {"name": name, "use": "block_list", "settings": file}


@pytest.fixture(scope="module")
def client(keys: KeyStore, folder: Path, held: Held) -> Iterator[TestClient]:
    """One service for all: DBOS takes a second to start, and is one per process."""
    (folder / "refused.txt").write_text(f"{REFUSED}\n")
    (folder / "held.txt").write_text(f"{HELD}\n")
    settings = GatewaySettings(
        key_file=keys._path,
        provenance={"enabled": False},
        audit={"enabled": True, "fsync": False},
        policies={"rules": [_words(folder, "refused"), _words(folder, "held", action="hold")]},
        stream_heartbeat=0.2,
        jobs=JobSettings(
            poll_seconds=0.05,
            sweep_seconds=0.2,
            lease_seconds=1.0,
            owner_bytes=SMALL,
            max_queued_per_owner=3,
        ),
    )
    app = create_app(
        held,
        settings,
        metrics=GatewayMetrics(CollectorRegistry()),
        make_jobs=jobs_for(settings.jobs, folder),
    )
    with TestClient(app) as opened:
        yield opened


def _somebody(client: TestClient, keys: KeyStore) -> Iterator[Headers]:
    """Whose jobs end with the test: of the two that run at a time none is the next test's."""
    headers = {"authorization": f"Bearer {keys.create(uuid.uuid4().hex).text}"}
    yield headers
    for job in client.get("/v1/jobs", params={"limit": 100}, headers=headers).json()["data"]:
        client.delete(f"/v1/jobs/{job['id']}", headers=headers)


@pytest.fixture
def owner(client: TestClient, keys: KeyStore) -> Iterator[Headers]:
    """An owner of the test's own."""
    yield from _somebody(client, keys)


@pytest.fixture
def stranger(client: TestClient, keys: KeyStore) -> Iterator[Headers]:
    yield from _somebody(client, keys)


@pytest.fixture
def holding(held: Held) -> Iterator[Held]:
    held.hold = True
    yield held
    held.hold = False
