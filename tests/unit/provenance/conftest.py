"""The gateway over real engines, with provenance on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core.job import Task
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.provenance.inspection import Inspection, inspect
from services.provenance.record import Record
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each


@pytest.fixture(scope="session")
def engines() -> Iterator[InProcessBackend]:
    """One small model of every family, ``tiny-FAMILY``."""
    found = InProcessBackend(one_of_each(), discover())
    yield found
    found.close()


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the gateway keeps its development certificate."""
    return tmp_path_factory.mktemp("state") / "provenance"


@pytest.fixture(scope="session")
def build(state: Path) -> Callable[..., TestClient]:
    """Opens a client of the gateway over a backend, with provenance on and settings of it."""

    def open_client(backend: Any, **provenance: Any) -> TestClient:
        settings = GatewaySettings(
            default_model="tiny-diffusion",
            key_file=state.with_name("keys.json"),
            provenance={"enabled": True, **provenance},
        )
        return TestClient(
            create_app(backend, settings, metrics=GatewayMetrics(CollectorRegistry()))
        )

    return open_client


@pytest.fixture(scope="session")
def connect(
    engines: InProcessBackend, build: Callable[..., TestClient]
) -> Callable[..., TestClient]:
    """Opens a client of the gateway over real engines."""
    return lambda **provenance: build(engines, **provenance)


@pytest.fixture(scope="session")
def client(connect: Callable[..., TestClient]) -> TestClient:
    return connect()


@pytest.fixture(scope="session")
def plain(connect: Callable[..., TestClient]) -> TestClient:
    """The same gateway without provenance."""
    return connect(enabled=False)


@pytest.fixture(scope="session")
def read(client: TestClient, state: Path) -> Callable[[bytes], Inspection]:
    """Reads an image as somebody who trusts the development certificate."""
    anchor = (state / "development-ca.pem").read_bytes()
    return lambda data: inspect(data, [anchor])


def picture(kind: str = "PNG", size: int = 16) -> bytes:
    """An encoded image of a user's."""
    stream = io.BytesIO()
    values = np.random.default_rng(3).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


def pixels(data: bytes) -> list[Any]:
    """The decoded values of an image."""
    return np.asarray(Image.open(io.BytesIO(data))).tolist()


def record(**fields: Any) -> Record:
    """What is known of an image."""
    known: dict[str, Any] = {
        "model": "some-model",
        "models": {"some-model": "0" * 64},
        "task": Task.GENERATE,
        "operation": None,
        "row": 0,
        "parameters": {},
        "values": {"seed": 1},
    }
    return Record(**{**known, **fields})
