"""Keys, quotas and fair shares over several replicas of the gateway and a pool apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.gateway.key_store import KeyStore
from tests.e2e.running import Server, Servers, until

ASK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 4}


@pytest.fixture(scope="module")
def keyed(servers: Servers) -> Iterator[tuple[Server, KeyStore]]:
    """A server of two gateway replicas that was open until its first key was made."""
    server = servers.running("several")
    store = KeyStore(server.folder / "keys.json")
    store.create("operator")
    yield server, store
    servers.close()  # it will never be open again


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def statuses(server: Server, count: int, headers: dict[str, str]) -> list[int]:
    """Each on a connection of its own, so that any replica may answer."""
    return [httpx.get(f"{server.url}/v1/models", headers=headers).status_code for _ in range(count)]


def test_a_running_server_asks_for_the_key_that_was_just_made(
    keyed: tuple[Server, KeyStore],
) -> None:
    server, store = keyed
    assert set(statuses(server, 8, {})) == {401}
    key = store.create("app", scopes=("generate",)).text
    assert set(statuses(server, 8, bearer(key))) == {200}
    made = server.post("/v1/generate", ASK, headers=bearer(key))
    assert made.status_code == 200
    other = {"model": "shapes-vae", "images": ["AAAA"]}
    refused = server.post("/v1/likelihood", other, headers=bearer(key))
    assert refused.status_code == 403
    store.revoke("app")
    assert set(statuses(server, 8, bearer(key))) == {401}


def test_a_quota_is_one_over_all_replicas(keyed: tuple[Server, KeyStore]) -> None:
    server, store = keyed
    key = store.create("limited", rate="10/d").text
    found = statuses(server, 30, bearer(key))
    assert found == [200] * 10 + [429] * 20


def test_device_seconds_of_a_pool_apart_are_charged(keyed: tuple[Server, KeyStore]) -> None:
    server, store = keyed
    key = store.create("metered", device_seconds="0.01/d").text
    found = [server.post("/v1/generate", ASK, headers=bearer(key)) for _ in range(2)]
    assert [answer.status_code for answer in found] == [200, 429]
    assert found[0].headers["ratelimit"].startswith('"device-seconds";r=0;t=')


def test_a_flood_does_not_keep_another_key_out(keyed: tuple[Server, KeyStore]) -> None:
    """No times are compared: the other key's requests end while the flood's are still waiting."""
    server, store = keyed
    flood, other = store.create("flood").text, store.create("other").text
    long = {**ASK, "n": 16, "steps": 100}
    ended: list[Any] = []

    def send() -> None:
        ended.append(server.post("/v1/generate", long, headers=bearer(flood)).status_code)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    operator = bearer(store.rotate("operator", grace=3600.0).text)

    def waiting() -> int:
        status = httpx.get(f"{server.url}/v1/status", headers=operator, timeout=30.0).json()
        return sum(pool["trajectories"] for pool in status["pools"])

    until(lambda: waiting() >= 100, "the flood is there", 60.0)
    answers = [server.post("/v1/generate", ASK, headers=bearer(other)) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert not ended
    assert waiting() >= 100
