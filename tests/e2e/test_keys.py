"""What several replicas of the gateway have together: keys, quotas, reviews, log, fair shares."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from services.gateway.audit_check import tail, verify
from services.gateway.key_store import KeyStore
from tests.e2e.conftest import HELD
from tests.e2e.running import Server, Servers, until
from tests.otlp import Collector

ASK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 4}
REQUESTS = 6
"""That one replica answers all of them is a matter of luck: one in 32."""


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


def test_a_review_is_one_over_all_replicas(keyed: tuple[Server, KeyStore]) -> None:
    server, store = keyed
    app = bearer(store.create("painter").text)
    rita = bearer(store.create("reviewer", scopes=("review",)).text)
    ask = {**ASK, "prompt": f"a red {HELD}"}
    held = [server.post("/v1/generate", ask, headers=app) for _ in range(REQUESTS)]
    assert {answer.status_code for answer in held} == {202}
    urls = [answer.json()["review"]["url"] for answer in held]
    assert len(set(urls)) == REQUESTS
    for _ in range(REQUESTS):
        listed = httpx.get(f"{server.url}/v1/reviews", headers=app).json()["data"]
        assert [f"/v1/reviews/{review['id']}" for review in listed] == urls

    def decide(url: str) -> int:
        return server.post(f"{url}/approve", {}, headers=rita).status_code

    with ThreadPoolExecutor(REQUESTS) as threads:
        decided = list(threads.map(decide, [url for url in urls for _ in range(2)]))
    assert decided.count(200) == decided.count(409) == REQUESTS
    for url in urls:
        assert httpx.get(f"{server.url}{url}/images/0", headers=app).is_success


def test_the_audit_log_is_one_chain_over_all_replicas(keyed: tuple[Server, KeyStore]) -> None:
    server, store = keyed
    headers = bearer(store.create("noted").text)
    names = [f"noted-{i}" for i in range(4 * REQUESTS)]

    def ask(name: str) -> int:
        named = {**headers, "x-request-id": name}
        return server.post("/v1/generate", {**ASK, "steps": 1}, headers=named).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, names)) == {200}
    folder = server.folder / "audit"
    verify(folder)
    noted = [event["request_id"] for event in tail(folder, 1000)]
    assert sorted(name for name in noted if name.startswith("noted-")) == sorted(names)


def test_each_request_is_one_trace_whichever_replica_answers(
    keyed: tuple[Server, KeyStore], spans: Collector
) -> None:
    server, store = keyed
    headers = bearer(store.create("traced").text)
    traces = [f"{i + 1:032x}" for i in range(REQUESTS)]
    for trace in traces:
        parent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        server.post("/v1/generate", ASK, headers={**headers, **parent}).raise_for_status()
    for trace in traces:
        until(
            lambda trace=trace: (
                {"POST /v1/generate", "atelier.decode"} <= {span.name for span in spans.of(trace)}
            ),
            "the spans came",
        )
        found = [span for span in spans.of(trace) if span.name == "POST /v1/generate"]
        assert [(span.kind, span.parent) for span in found] == [("server", "b7ad6b7169203331")]
        known = {span.id for span in spans.of(trace)} | {"b7ad6b7169203331"}
        until(
            lambda trace=trace, known=known: (
                {span.parent for span in spans.of(trace)}
                <= known | {span.id for span in spans.of(trace)}
            ),
            "no span is without its parent",
        )


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
