"""A scripted backend, and the gateway over it."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core.backend import PoolStatus
from services.core.errors import DocumentNotFound, ModelNotFound
from services.core.job import (
    Answer,
    Call,
    CallFinished,
    Event,
    Item,
    Queued,
    RowFinished,
    Task,
    Timings,
    Watch,
)
from services.core.model import DocumentKind, ModelInfo, ReferenceSet
from services.core.validation import near
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each

TIMINGS = Timings(queue=0.001, prepare=0.002, step=0.25, decode=0.004, encode=0.005)
LATENTS = {"data": base64.b64encode(bytes(8)).decode(), "shape": [2]}
REFERENCE = ReferenceSet((-300.0, -200.0, -100.0), {"samples": 4})
LIKELIHOOD = {
    "log_likelihood": -12.5,
    "bits_per_dim": float("inf"),
    "kind": "exact",
    "std_error": 0.0,
    "terms": {"log_prior": float("nan"), "log_det": 1.0},
    "percentile": 40.0,
    "anomalous": False,
}


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    """An encoded image."""
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(stream, kind)
    return stream.getvalue()


def model(name: str, family: str, conditioning: str, **more: Any) -> ModelInfo:
    """A model as a backend describes it."""
    fields: dict[str, Any] = {
        "id": name,
        "family": family,
        "created": 1,
        "owned_by": "atelier",
        "description": f"a {family}",
        "tasks": ("generate",),
        "operations": {"generate": {"type": "object"}},
        "conditioning": (conditioning,),
        "resolution": (32, 64),
        "channels": 3,
        "likelihood": "none",
    }
    return ModelInfo(**{**fields, **more})


class ScriptedBackend:
    """Answers at once, raises ``error``, or holds every call until it is cancelled."""

    def __init__(self) -> None:
        labels = ("red circle", "red circle large", "blue star")
        self.catalog = {
            info.id: info
            for info in (
                model(
                    "digits-realnvp",
                    "flow",
                    "none",
                    resolution=(8, 8),
                    channels=1,
                    reference=REFERENCE,
                ),
                model("shapes-cgan", "gan", "label", labels=labels),
                model("shapes-ldm", "diffusion", "text"),
                model("shapes-vae", "vae", "none"),
            )
        }
        self.calls: list[Call] = []
        self.watches: list[Watch] = []
        self.error: BaseException | None = None
        self.held: asyncio.Event | None = None
        self.canceled = 0
        self.device_seconds = 0.0
        self.is_ready = True
        self.documents = {
            ("shapes-ldm", "card"): b"# shapes-ldm",
            ("shapes-ldm", "sheet"): picture(),
        }

    async def run(self, call: Call) -> Answer:
        self.calls.append(call)
        if self.held is not None:
            self.held.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.canceled += 1
                raise
        if self.error is not None:
            raise self.error
        items = tuple(self._items(call))
        return Answer(call.model, items, TIMINGS, device_seconds=self.device_seconds)

    def _items(self, call: Call) -> Iterator[Item]:
        if call.task is Task.LIKELIHOOD:
            yield from (Item(LIKELIHOOD) for _ in call.images)
        elif call.task is Task.ENCODE:
            yield from (Item({"latents": LATENTS}) for _ in call.images)
        else:
            seed = call.parameters["seed"]
            data = picture(call.encoding.format.upper())
            for row in range(call.parameters.get("n", 1)):
                yield Item({"seed": seed + row}, data)

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        self.watches.append(watch)
        yield Queued(call.parameters.get("n", 1), 0, 0.5)
        answer = await self.run(call)
        for row, item in enumerate(answer.items):
            yield RowFinished(row, item)
        yield CallFinished(call.model, answer.timings, answer.device_seconds)

    async def models(self) -> Sequence[ModelInfo]:
        return list(self.catalog.values())

    async def model(self, name: str) -> ModelInfo:
        if name not in self.catalog:
            offer = ", ".join(near(name, self.catalog))
            raise ModelNotFound(f"no model of that name; near: {offer}", param="model")
        return self.catalog[name]

    async def document(self, name: str, kind: DocumentKind) -> bytes:
        found = self.documents.get((name, kind))
        if found is None:
            raise DocumentNotFound(f"model '{name}' comes without a {kind}", param="model")
        return found

    async def status(self) -> Sequence[PoolStatus]:
        return [PoolStatus("main", "fused", 1, ("shapes-ldm",), 0.5, 2, 0.01)]

    async def ready(self) -> bool:
        return self.is_ready


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def build(backend: ScriptedBackend, registry: CollectorRegistry) -> Callable[..., Any]:
    """Builds the app over the scripted backend, with settings as keyword arguments."""

    def build_app(**settings: Any) -> Any:
        return create_app(backend, GatewaySettings(**settings), metrics=GatewayMetrics(registry))

    return build_app


@pytest.fixture
def connect(build: Callable[..., Any]) -> Callable[..., TestClient]:
    """Opens a client on an app with the given settings."""

    def open_client(**settings: Any) -> TestClient:
        return TestClient(build(**settings))

    return open_client


@pytest.fixture
def client(connect: Callable[..., TestClient]) -> TestClient:
    return connect()


@pytest.fixture
def image() -> Callable[..., bytes]:
    return picture


@pytest.fixture(scope="session")
def tiny_backend() -> Iterator[InProcessBackend]:
    """Real engines, as small as they come: one model of every family, ``tiny-FAMILY``."""
    found = InProcessBackend(one_of_each(), discover())
    yield found
    found.close()


@pytest.fixture
def tiny(tiny_backend: InProcessBackend, registry: CollectorRegistry) -> TestClient:
    """A client of the gateway over real engines."""
    settings = GatewaySettings(default_model="tiny-diffusion")
    return TestClient(create_app(tiny_backend, settings, metrics=GatewayMetrics(registry)))
