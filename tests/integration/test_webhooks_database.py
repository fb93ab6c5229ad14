"""What is kept of webhooks in PostgreSQL, where replicas on several machines share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.jobs.database import Database
from services.jobs.webhook_store import DELIVERED, GONE, PENDING, Delivery, WebhookStore
from tests.postgres import Postgres, binaries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(binaries() is None, reason="no PostgreSQL on this machine"),
]


@pytest.fixture
async def stores(postgres: Postgres) -> AsyncIterator[tuple[WebhookStore, WebhookStore]]:
    """Those of two replicas."""
    url = await asyncio.to_thread(postgres.make, "webhooks")
    databases = [Database(url), Database(url)]
    for database in databases:
        await database.open()
    yield WebhookStore(databases[0]), WebhookStore(databases[1])
    for database in databases:
        await database.close()


def delivery(number: int, owner: str = "a") -> Delivery:
    return Delivery(f"m{number}", owner, f"job{number}", "job.failed", "https://a/", "{}", 1.0)


async def test_replicas_share_secrets_and_never_a_delivery(
    stores: tuple[WebhookStore, WebhookStore],
) -> None:
    one, two = stores
    first, second = await asyncio.gather(one.secrets("a", 1.0), two.secrets("a", 1.0))
    assert first == second
    new = await two.rotate("a", 10.0, grace=5.0)
    assert new[1:] == first
    assert await one.secrets("a", 16.0) == new[:1]

    added = await asyncio.gather(*(s.add(delivery(n)) for n in range(12) for s in stores))
    assert sum(added) == 12
    taken: list[tuple[str, list[Delivery]]] = []
    for _ in range(12):  # who asks at the same moment may come away with nothing
        found = await asyncio.gather(
            *(s.claim(2.0, lease=9.0, most=4, per_owner=12) for s in (one, two, one))
        )
        taken += [(claim, rows) for claim, rows in found if rows]
    names = [row.id for _, rows in taken for row in rows]
    assert len(names) == len(set(names)) == 12
    assert (await one.claim(3.0, lease=9.0, most=4, per_owner=12))[1] == []

    claim, rows = max(taken, key=lambda found: len(found[1]))
    assert len(rows) >= 3
    assert await one.settle(claim, rows[0].id, state=DELIVERED, said="ok")
    assert not await two.settle("other", rows[1].id, state=DELIVERED, said="ok")
    assert await one.settle(claim, rows[1].id, state=GONE, said="410")
    (kept,) = await two.of_job("a", rows[2].job)
    assert (kept.state, kept.attempts) == (PENDING, 1)
    assert await two.next_due() == 11.0
    again = await two.claim(12.0, lease=9.0, most=50, per_owner=3)
    assert len(again[1]) == 3
    assert await one.forget(2.0) == 2
