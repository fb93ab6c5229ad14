"""A request in flight is withdrawn from another connection, by its id."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.core.errors import Unavailable
from services.core.network import OpenedModel
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend, PoolSettings
from tests.asgi import PATIENCE, Connection, exchanged, other_tasks
from tests.engines import opened
from tests.scripted import Gate, ScriptedEngine
from tests.tiny_models import Shelf

ID = "one.of-my_requests"
NAMED = {"x-request-id": ID}
STEPS = 50


async def delete(app: Any, name: str = ID, headers: Mapping[str, str] | None = None) -> Connection:
    return await exchanged(app, f"/v1/requests/{name}", method="DELETE", headers=headers)


def code(connection: Connection) -> str:
    found: str = json.loads(connection.said)["error"]["code"]
    return found


def canceled(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("atelier_canceled_total", {"where": "delete"})


def test_the_caller_of_a_withdrawn_request_is_told(
    build: Any, backend: Any, registry: CollectorRegistry
) -> None:
    async def scenario() -> None:
        app = build()
        backend.held = asyncio.Event()
        connection = Connection(headers=NAMED)
        answering = connection.open(app)
        await backend.held.wait()
        deleted = await delete(app)
        assert (deleted.status, deleted.said) == (204, b"")
        await asyncio.wait_for(answering, PATIENCE)
        assert (connection.status, code(connection)) == (499, "canceled")
        assert backend.canceled == 1
        assert (await delete(app)).status == 404
        assert not other_tasks()

    asyncio.run(scenario())
    assert canceled(registry) == 1


def test_a_stream_names_its_request_and_ends_in_an_error_when_that_is_withdrawn(
    build: Any, backend: Any, registry: CollectorRegistry
) -> None:
    async def scenario() -> None:
        app = build()
        backend.held = asyncio.Event()
        stream = Connection(response="stream")
        answering = stream.open(app)
        await stream.until(b"\n\n")
        (first,) = [line for line in stream.said.splitlines() if line.startswith(b"data: ")]
        name = json.loads(first.removeprefix(b"data: "))["request_id"]
        await backend.held.wait()
        assert (await delete(app, name)).status == 204
        await asyncio.wait_for(answering, PATIENCE)
        *_, event, data = stream.said.strip().splitlines()
        assert event == b"event: error"
        error = json.loads(data.removeprefix(b"data: "))["error"]
        assert error["code"] == "canceled"
        assert f"/v1/requests/{name}" in error["message"]
        assert not stream.sent[-1]["more_body"]
        assert not other_tasks()

    asyncio.run(scenario())
    assert canceled(registry) == 1
    labels = {"route": "/v1/generate", "model": "shapes-ldm", "task": "generate", "code": "499"}
    assert registry.get_sample_value("atelier_requests_total", labels) == 1


@pytest.mark.parametrize("path", ["/v1/edit", "/v1/likelihood", "/v1/encode"])
def test_every_call_can_be_withdrawn(build: Any, backend: Any, image: Any, path: str) -> None:
    async def scenario() -> None:
        app = build()
        backend.held = asyncio.Event()
        body: dict[str, Any] = {"image": base64.b64encode(image()).decode()}
        body |= {"operation": "variation"} if path == "/v1/edit" else {}
        answering = (connection := Connection(path, headers=NAMED, **body)).open(app)
        await backend.held.wait()
        assert (await delete(app)).status == 204
        await asyncio.wait_for(answering, PATIENCE)
        assert connection.status == 499

    asyncio.run(scenario())


def test_what_is_withdrawn_before_its_work_began_ends_too(build: Any, backend: Any) -> None:
    looked_up, go_on = asyncio.Event(), asyncio.Event()
    find = backend.model

    async def slow_model(name: str) -> Any:
        looked_up.set()
        await go_on.wait()
        return await find(name)

    backend.model = slow_model

    async def scenario() -> None:
        app = build()
        backend.held = asyncio.Event()
        connection = Connection(headers=NAMED)
        answering = connection.open(app)
        await looked_up.wait()
        assert (await delete(app)).status == 204
        go_on.set()
        await asyncio.wait_for(answering, PATIENCE)
        assert connection.status == 499
        assert backend.canceled == len(backend.calls)
        assert not other_tasks()

    asyncio.run(scenario())


def test_what_is_not_in_flight_is_not_found(client: Any) -> None:
    answer = client.delete("/v1/requests/nobody")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "request_not_found"
    assert "nobody" in answer.json()["error"]["message"]
    # It is itself a request of that id, but no call.
    assert client.delete(f"/v1/requests/{ID}", headers=NAMED).status_code == 404
    assert client.delete(f"/v1/requests/{'x' * 65}").status_code == 422


def test_a_key_withdraws_its_own_requests_alone(build: Any, backend: Any) -> None:
    def bearer(key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in ("mine", "yours"))

    async def scenario() -> None:
        app = build(api_keys=digests)
        backend.held = asyncio.Event()
        connection = Connection(headers={**NAMED, **bearer("mine")})
        answering = connection.open(app)
        await backend.held.wait()
        assert (await delete(app)).status == 401
        assert (await delete(app, headers=bearer("yours"))).status == 404
        assert not connection.sent
        assert (await delete(app, headers=bearer("mine"))).status == 204
        await asyncio.wait_for(answering, PATIENCE)
        assert connection.status == 499

    asyncio.run(scenario())


def test_a_request_that_another_replica_answers_is_withdrawn_there(
    backend: Any, registry: CollectorRegistry
) -> None:
    asked: list[tuple[str, str]] = []

    async def elsewhere(request_id: str, owner: str) -> bool:
        asked.append((request_id, owner))
        if request_id == "lost":
            raise Unavailable("not every replica could be asked")
        return request_id == ID

    app = create_app(
        backend, GatewaySettings(), metrics=GatewayMetrics(registry), elsewhere=elsewhere
    )

    async def scenario() -> list[int]:
        return [(await delete(app, name)).status for name in (ID, "nobody", "lost")]

    assert asyncio.run(scenario()) == [204, 404, 503]
    assert asked == [(ID, ""), ("nobody", ""), ("lost", "")]


@pytest.fixture
def engines(gate: Gate) -> Iterator[InProcessBackend]:
    """A real loop over an engine that waits at the gate before each step."""

    class Gated(ScriptedEngine):
        def __init__(self, model: OpenedModel, *_: Any) -> None:
            super().__init__(name=model.id)

        def rehearsal(self) -> Any:
            return ()

        def step(self, batch: Any) -> None:
            self.hook = gate
            super().step(batch)

    shelf = Shelf({"scripted": lambda: opened("scripted", {}, resolution=(4, 4), name="scripted")})
    backend = InProcessBackend(shelf, {"scripted": Gated}, settings=PoolSettings(drain_seconds=0))
    yield backend
    gate.open()
    backend.close()


@pytest.mark.parametrize("response", ["json", "stream"])
def test_a_withdrawn_request_is_evaluated_no_more(
    engines: InProcessBackend, gate: Gate, registry: CollectorRegistry, response: str
) -> None:
    app = create_app(engines, GatewaySettings(), metrics=GatewayMetrics(registry))

    def steps() -> int:
        return engines.loop.status().evaluations.get("scripted/step", 0)

    async def scenario() -> None:
        connection = Connection(model="scripted", steps=STEPS, response=response, headers=NAMED)
        answering = connection.open(app)
        await asyncio.to_thread(gate.wait)
        for _ in range(3):
            await asyncio.to_thread(gate.advance)
        assert steps() == 3
        assert (await delete(app)).status == 204
        await asyncio.wait_for(answering, PATIENCE)
        # The fourth is under way; it stands at the gate.
        assert engines.loop.status().trajectories == 1
        gate.open()
        while engines.loop.status().trajectories:
            await asyncio.sleep(0.001)

    asyncio.run(scenario())
    assert steps() == 4
