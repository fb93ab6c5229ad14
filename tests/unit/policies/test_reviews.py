"""What waits for a reviewer: decided once, forgotten in time, never more than there is room for."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.core.errors import (
    Forbidden,
    InvalidParameter,
    ReviewDecided,
    ReviewNotFound,
    ReviewsFull,
    Unavailable,
)
from services.policies.review_words import Held, ReviewStatus
from services.policies.reviews import ReviewStore
from services.policies.settings import ReviewSettings


def held(owner: str = "me", images: tuple[bytes, ...] = (b"one", b"two")) -> Held:
    return Held(
        owner=owner,
        request_id="r1",
        model="shapes-ldm",
        task="generate",
        policy="words",
        reason="a word",
        format="png",
        texts={"prompt": ["a \u202e\r\n star"]},
        values=[{"seed": i} for i in range(len(images))],
        images=images,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(tmp_path: Path, clock: Clock) -> Iterator[Any]:
    opened: list[ReviewStore] = []

    def build(**settings: Any) -> ReviewStore:
        opened.append(ReviewStore(ReviewSettings(**settings), tmp_path / "state", now=clock))
        return opened[-1]

    yield build
    for store in opened:
        store.close()


async def test_what_is_kept_comes_back_whole_to_its_owner_and_to_reviewers(open_store) -> None:
    store = open_store()
    kept = await store.keep(held())
    assert kept.status is ReviewStatus.HELD
    for owner in ("me", None):
        found = await store.get(kept.id, owner=owner)
        assert found.request.texts == {"prompt": ["a \u202e\r\n star"]}
        assert found.request.values == [{"seed": 0}, {"seed": 1}]
    assert await store.images(kept.id) == [b"one", b"two"]


async def test_anothers_review_is_as_if_it_were_not_there(open_store) -> None:
    store = open_store()
    kept = await store.keep(held())
    with pytest.raises(ReviewNotFound) as theirs:
        await store.get(kept.id, owner="you")
    with pytest.raises(ReviewNotFound) as nobodys:
        await store.get("f" * len(kept.id), owner="you")
    assert theirs.value.message.replace(kept.id, "") == nobodys.value.message.replace(
        "f" * len(kept.id), ""
    )
    assert await store.list(owner="you") == []


async def test_of_many_decisions_at_once_one_counts(open_store) -> None:
    stores = [open_store() for _ in range(3)]  # as replicas have one each
    kept = await stores[0].keep(held())
    wishes = [ReviewStatus.APPROVED, ReviewStatus.REJECTED] * 6
    outcomes = await asyncio.gather(
        *(stores[i % 3].decide(kept.id, wish, by=f"reviewer {i}") for i, wish in enumerate(wishes)),
        return_exceptions=True,
    )
    decided = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(decided) == 1
    assert all(isinstance(o, ReviewDecided) for o in outcomes if isinstance(o, BaseException))
    found = await stores[0].get(kept.id)
    assert (found.status, found.decided_by) == (decided[0].status, decided[0].decided_by)


async def test_what_is_rejected_loses_its_images_and_frees_their_room(open_store) -> None:
    store = open_store(max_bytes=10)
    kept = await store.keep(held(images=(b"12345678",)))
    with pytest.raises(ReviewsFull):
        await store.keep(held("you", images=(b"12345678",)))
    rejected = await store.decide(kept.id, ReviewStatus.REJECTED, by="r", note="no")
    assert (rejected.image_count, rejected.note) == (0, "no")
    assert await store.images(kept.id) == []
    await store.keep(held("you", images=(b"12345678",)))


async def test_one_owner_cannot_fill_the_queue_for_all(open_store) -> None:
    store = open_store(max_bytes=100, max_owner_bytes=10)
    await store.keep(held(images=(b"12345678",)))
    with pytest.raises(ReviewsFull, match="this key"):
        await store.keep(held(images=(b"12345678",)))
    await store.keep(held("you", images=(b"12345678",)))
    assert len(await store.list()) == 2


async def test_a_full_queue_is_known_before_the_work(open_store) -> None:
    store = open_store(max_owner_bytes=8)
    await store.keep(held(images=(b"12345678",)))
    with pytest.raises(ReviewsFull):
        await store.check_room("me")
    await store.check_room("you")


async def test_what_nobody_decides_is_forgotten_in_time(open_store, clock) -> None:
    store = open_store(ttl=100, max_bytes=8)
    kept = await store.keep(held(images=(b"12345678",)))
    clock.now += 101
    with pytest.raises(ReviewNotFound):
        await store.get(kept.id)
    assert await store.list() == []
    await store.keep(held(images=(b"12345678",)))
    assert await store.images(kept.id) == []


async def test_an_approved_image_can_be_fetched_for_a_while(open_store, clock) -> None:
    store = open_store(ttl=100, decided_ttl=1000)
    kept = await store.keep(held())
    clock.now += 90
    await store.decide(kept.id, ReviewStatus.APPROVED, by="r")
    clock.now += 900
    assert (await store.get(kept.id, owner="me")).status is ReviewStatus.APPROVED
    clock.now += 101
    with pytest.raises(ReviewNotFound):
        await store.get(kept.id, owner="me")


async def test_two_pairs_of_eyes_where_they_are_asked_for(open_store) -> None:
    store = open_store(four_eyes=True)
    kept = await store.keep(held())
    with pytest.raises(Forbidden):
        await store.decide(kept.id, ReviewStatus.APPROVED, by="me")
    await store.decide(kept.id, ReviewStatus.APPROVED, by="you")


async def test_pages_follow_one_another_oldest_first(open_store, clock) -> None:
    store, made = open_store(), []
    for _ in range(5):
        made.append((await store.keep(held())).id)
        clock.now += 1
    first = await store.list(limit=2)
    then = await store.list(limit=10, after=first[-1].id)
    assert [review.id for review in (*first, *then)] == made
    await store.decide(made[2], ReviewStatus.APPROVED, by="r")
    assert [review.id for review in await store.list(status=ReviewStatus.APPROVED)] == [made[2]]


async def test_nobody_else_on_the_machine_can_read_it(open_store, tmp_path) -> None:
    await open_store().keep(held())
    for path in (tmp_path / "state").iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


async def test_what_survives_is_what_was_kept(open_store) -> None:
    kept = await open_store().keep(held())
    again = open_store()
    assert await again.images(kept.id) == [b"one", b"two"]


async def test_a_database_that_cannot_be_reached_is_said_to_be(tmp_path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    store = ReviewStore(ReviewSettings(), tmp_path / "state")
    with pytest.raises(Unavailable):
        await store.list()


async def test_another_kind_of_database_is_refused(open_store) -> None:
    with pytest.raises(InvalidParameter, match="postgresql"):
        await open_store(database_url="mysql://localhost/x").list()
