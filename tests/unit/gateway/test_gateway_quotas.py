"""Quotas: one quota however many gateway replicas there are, and told in every answer."""

from __future__ import annotations

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.core.errors import InvalidParameter, QueueFull
from services.gateway.key_store import KeyStore
from services.gateway.quotas import Level, Need, Quota, QuotaLedger, quota_headers
from tests.asgi import Connection

ASK = {"model": "shapes-ldm", "prompt": "a red circle", "seed": 1}
PER_MINUTE = Quota(60, 60.0)


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> QuotaLedger:
    return QuotaLedger(tmp_path / "q" / "quotas.sqlite", now=clock)


def taken(ledger: QuotaLedger, owner: str, *needs: Need) -> list[Level]:
    return asyncio.run(ledger.take(owner, needs))


def key_with(**grants: Any) -> dict[str, str]:
    """The header of a new key."""
    store = KeyStore(Path(os.environ["ATELIER_KEY_FILE"]))
    return {"authorization": f"Bearer {store.create('app', **grants).text}"}


def test_a_burst_passes_and_then_one_at_a_time(ledger: QuotaLedger, clock: Clock) -> None:
    need = Need("requests", PER_MINUTE, 1.0)
    assert [taken(ledger, "a", need)[0].remaining for _ in range(60)] == list(range(59, -1, -1))
    (refused,) = taken(ledger, "a", need)
    assert refused.wait == pytest.approx(1.0)
    clock.seconds += 0.999
    assert taken(ledger, "a", need)[0].wait == pytest.approx(0.001, abs=1e-6)
    clock.seconds += 0.0011
    assert taken(ledger, "a", need)[0].wait == 0
    clock.seconds += 3600
    assert taken(ledger, "a", need)[0].remaining == 59


def test_owners_do_not_share(ledger: QuotaLedger) -> None:
    need = Need("requests", Quota(1, 60.0), 1.0)
    assert taken(ledger, "a", need)[0].wait == 0
    assert taken(ledger, "a", need)[0].wait > 0
    assert taken(ledger, "b", need)[0].wait == 0


def test_all_is_taken_or_nothing(ledger: QuotaLedger) -> None:
    one, other = Need("one", Quota(1, 60.0), 1.0), Need("other", Quota(5, 60.0), 1.0)
    taken(ledger, "a", one)
    levels = taken(ledger, "a", one, other)
    assert (levels[0].wait > 0, levels[1].wait) == (True, 0)
    assert taken(ledger, "a", Need("other", Quota(5, 60.0), 0.0))[0].remaining == 5


def test_what_was_used_beyond_the_quota_is_owed(ledger: QuotaLedger, clock: Clock) -> None:
    quota = Quota(10, 100.0)
    asyncio.run(ledger.charge("a", Need("device-seconds", quota, 25.0)))
    nothing = Need("device-seconds", quota, 0.0)
    (level,) = taken(ledger, "a", nothing)
    assert level.remaining == pytest.approx(-15)
    assert level.wait == pytest.approx(150)
    clock.seconds += 151
    assert taken(ledger, "a", nothing)[0].wait == 0


def test_replicas_of_a_gateway_keep_one_account(tmp_path: Path, clock: Clock) -> None:
    ledgers = [QuotaLedger(tmp_path / "quotas.sqlite", now=clock) for _ in range(4)]
    need = Need("requests", Quota(25, 3600.0), 1.0)

    def ask(i: int) -> float:
        return taken(ledgers[i % 4], "a", need)[0].wait

    with ThreadPoolExecutor(4) as threads:
        waits = list(threads.map(ask, range(60)))
    assert sum(wait == 0 for wait in waits) == 25


def test_a_restart_forgets_nothing(tmp_path: Path, clock: Clock) -> None:
    need = Need("requests", Quota(1, 60.0), 1.0)
    first = QuotaLedger(tmp_path / "quotas.sqlite", now=clock)
    taken(first, "a", need)
    first.close()
    assert taken(QuotaLedger(tmp_path / "quotas.sqlite", now=clock), "a", need)[0].wait > 0


@pytest.mark.parametrize("text", ["", "60", "60/m", "-1/min", "0/min", "1e3/min", "60/min "])
def test_what_is_no_quota_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="such as 60/min"):
        Quota.parse(text)


def test_quotas_are_read() -> None:
    assert Quota.parse("60/min") == PER_MINUTE
    assert Quota.parse("0.5/h") == Quota(0.5, 3600)


def test_headers_are_the_drafts_structured_fields() -> None:
    levels = [Level("requests", PER_MINUTE, 12.9, 0.0), Level("device-seconds", PER_MINUTE, -3, 0)]
    assert quota_headers(levels) == {
        "ratelimit-policy": '"requests";q=60;w=60, "device-seconds";q=60;w=60',
        "ratelimit": '"requests";r=12;t=48, "device-seconds";r=0;t=63',
    }
    assert quota_headers([]) == {}


def test_every_answer_says_what_is_left(client: TestClient) -> None:
    headers = key_with(rate="3/h")
    answers = [client.get("/v1/models", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert all(a.headers["ratelimit-policy"] == '"requests";q=3;w=3600' for a in answers)
    left = [re.match(r'"requests";r=(\d+);t=(\d+)$', a.headers["ratelimit"]) for a in answers]
    assert [int(found[1]) for found in left if found] == [2, 1, 0, 0]
    refused = answers[-1]
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert "x-should-retry" not in refused.headers
    assert refused.json()["error"]["code"] == "quota_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_a_refused_key_costs_no_work(client: TestClient, backend: Any) -> None:
    headers = key_with(rate="1/h")
    assert client.post("/v1/generate", json=ASK, headers=headers).status_code == 200
    assert client.post("/v1/generate", content=b"unread", headers=headers).status_code == 429
    assert len(backend.calls) == 1


def test_a_key_without_quotas_says_none_and_opens_no_file(client: TestClient) -> None:
    answer = client.post("/v1/generate", json=ASK, headers=key_with())
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers
    assert not Path(os.environ["ATELIER_KEY_FILE"]).with_name("quotas.sqlite").exists()


@pytest.mark.parametrize("response", ["json", "stream"])
def test_device_seconds_are_charged_when_they_are_known(
    client: TestClient, backend: Any, response: str
) -> None:
    backend.device_seconds = 7.0
    headers, ask = key_with(device_seconds="10/h"), {**ASK, "response": response}
    answers = [client.post("/v1/generate", json=ask, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["ratelimit"].startswith('"device-seconds";r=0;t=')
    assert answers[2].headers["content-type"] == "application/json"
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_what_is_refused_costs_nothing(client: TestClient, backend: Any) -> None:
    backend.error = QueueFull("full", retry_after=1.0)
    headers = key_with(device_seconds="0.001/h")
    answers = [client.post("/v1/generate", json=ASK, headers=headers) for _ in range(3)]
    assert {a.json()["error"]["code"] for a in answers} == {"queue_full"}


def test_a_call_that_is_withdrawn_is_charged_until_then(build: Any, backend: Any) -> None:
    headers = key_with(device_seconds="0.001/h")

    async def scenario() -> tuple[int, int]:
        app = build()
        backend.held = asyncio.Event()
        gone = Connection(prompt="a star", headers=headers)
        answering = gone.open(app)
        await backend.held.wait()
        await asyncio.sleep(0.01)
        gone.hang_up()
        await answering
        backend.held = None
        following = Connection(prompt="a star", headers=headers)
        await following.open(app)
        return gone.status, following.status

    assert asyncio.run(scenario()) == (499, 429)
