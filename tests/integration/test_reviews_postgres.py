"""Reviews in PostgreSQL, shared by gateways of several machines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.core.errors import ReviewDecided, ReviewsFull, Unavailable
from services.policies.review_words import Held, ReviewStatus
from services.policies.reviews import ReviewStore
from services.policies.settings import ReviewSettings
from tests.postgres import Postgres, binaries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(binaries() is None, reason="no PostgreSQL is installed"),
]


def _held(images: tuple[bytes, ...] = (b"\x00one", b"two")) -> Held:
    values = [{"seed": i} for i in range(len(images))]
    return Held(
        owner="me",
        request_id="r1",
        model="shapes-ldm",
        task="generate",
        policy="words",
        reason="a word",
        format="png",
        texts={"prompt": ["a \U0001f600\u202e star"]},
        values=values,
        images=images,
    )


async def test_replicas_of_several_machines_share_one_queue(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.make("reviews")
    stores = [
        ReviewStore(ReviewSettings(database_url=url, max_bytes=60), tmp_path / str(i))
        for i in range(3)
    ]
    # All at once, so that they also make the tables at once.
    outcomes = await asyncio.gather(
        *(stores[i % 3].keep(_held((b"x" * 20,))) for i in range(9)), return_exceptions=True
    )
    kept = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(kept) == 3
    assert all(isinstance(o, ReviewsFull) for o in outcomes if isinstance(o, BaseException))
    decisions = await asyncio.gather(
        *(
            stores[i % 3].decide(kept[0].id, ReviewStatus.REJECTED, by=f"reviewer {i}")
            for i in range(9)
        ),
        return_exceptions=True,
    )
    decided = [d for d in decisions if not isinstance(d, BaseException)]
    assert len(decided) == 1
    assert all(isinstance(d, ReviewDecided) for d in decisions if isinstance(d, BaseException))
    again = await stores[1].keep(_held())
    assert await stores[2].images(again.id) == [b"\x00one", b"two"]
    assert (await stores[0].get(again.id)).request.texts == _held().texts
    assert not any((tmp_path / str(i)).exists() for i in range(3))
    for store in stores:
        store.close()


async def test_a_lost_connection_is_made_again(postgres: Postgres, tmp_path: Path) -> None:
    store = ReviewStore(ReviewSettings(database_url=postgres.make("lost")), tmp_path)
    kept = await store.keep(_held())
    await asyncio.to_thread(postgres.terminate_connections)
    assert (await store.get(kept.id)).id == kept.id
    store.close()
    gone = ReviewStore(ReviewSettings(database_url=postgres.url("nowhere")), tmp_path)
    with pytest.raises(Unavailable):
        await gone.list()
