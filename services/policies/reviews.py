"""What waits for a reviewer: kept once, decided once, forgotten in time.

Requests and their images stand in one database: an SQLite file that nobody else can read, shared by
the gateway's replicas on a machine, or PostgreSQL where they are on several. Images lie in it and
not beside it, so that a review and its images are there together or not at all.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from services.core.errors import (
    Forbidden,
    ReviewDecided,
    ReviewNotFound,
    ReviewsFull,
    Unavailable,
)
from services.policies.review_database import IMAGES, REVIEWS, open_database
from services.policies.review_words import Held, Review, ReviewStatus
from services.policies.settings import ReviewSettings

T = TypeVar("T")

MOST_LISTED = 100
_ID_BYTES = 12
_LOCK = 0x61746C726576
"""PostgreSQL's advisory lock under which the room that is left is given away."""


class ReviewStore:
    """The queue, in one database for all processes that share it."""

    def __init__(
        self, settings: ReviewSettings, folder: Path, *, now: Callable[[], float] = time.time
    ) -> None:
        """Nothing is opened before the first question.

        Args:
            settings: how much is kept, for how long, and where.
            folder: of the SQLite file, where no other database is set.
            now: seconds since 1970.
        """
        self._settings, self._folder, self._now = settings, folder, now
        self._lock = threading.Lock()
        self._engine: sa.Engine | None = None

    async def check_room(self, owner: str) -> None:
        """Refuse what could not be kept, before any work is done for it.

        Raises:
            ReviewsFull: the owner, or everybody, has no room left.
        """
        await self._run(lambda connection: self._check_room(connection, owner, 1))

    async def keep(self, held: Held) -> Review:
        """Keep a request until a reviewer decides.

        Raises:
            ReviewsFull: there is no room for its images.
        """
        return await self._run(lambda connection: self._keep(connection, held))

    async def get(self, review_id: str, *, owner: str | None = None) -> Review:
        """One review.

        Args:
            review_id: its id.
            owner: whose it must be; ``None`` for a reviewer, who sees all.

        Raises:
            ReviewNotFound: there is none of that id, or it is another's.
        """
        return await self._run(lambda connection: self._get(connection, review_id, owner))

    async def images(self, review_id: str) -> list[bytes]:
        """The images of a review, in order; none once it was rejected."""

        def look(connection: sa.Connection) -> list[bytes]:
            query = sa.select(IMAGES.c.data).where(IMAGES.c.review == review_id)
            return [bytes(row.data) for row in connection.execute(query.order_by(IMAGES.c.place))]

        return await self._run(look)

    async def list(
        self,
        *,
        owner: str | None = None,
        status: ReviewStatus | None = None,
        after: str | None = None,
        limit: int = MOST_LISTED,
    ) -> list[Review]:
        """Reviews, oldest first.

        Args:
            owner: whose; ``None`` for everybody's.
            status: of which status; ``None`` for all.
            after: the last id of the page before.
            limit: at most so many.
        """

        def look(connection: sa.Connection) -> list[Review]:
            query = sa.select(REVIEWS).where(REVIEWS.c.expires > self._now())
            if owner is not None:
                query = query.where(REVIEWS.c.owner == owner)
            if status is not None:
                query = query.where(REVIEWS.c.status == status.value)
            if after is not None:
                query = query.where(REVIEWS.c.id > after)
            rows = connection.execute(query.order_by(REVIEWS.c.id).limit(limit))
            return [_review(row) for row in rows]

        return await self._run(look)

    async def decide(
        self, review_id: str, status: ReviewStatus, *, by: str, note: str = ""
    ) -> Review:
        """Approve or reject, once; what is rejected loses its images.

        Raises:
            ReviewNotFound: there is none of that id.
            ReviewDecided: somebody has decided already.
            Forbidden: it is the reviewer's own, and two pairs of eyes are asked for.
        """
        return await self._run(
            lambda connection: self._decide(connection, review_id, status, by, note)
        )

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    async def _run(self, work: Callable[[sa.Connection], T]) -> T:
        return await asyncio.to_thread(self._within, work)

    def _within(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            with self._opened().begin() as connection:
                return work(connection)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise Unavailable(
                f"the reviews cannot be reached: {type(error).__name__}", retry_after=5
            ) from error

    def _keep(self, connection: sa.Connection, held: Held) -> Review:
        now = self._now()
        if connection.dialect.name == "postgresql":  # SQLite's writers are alone anyway
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        self._forget(connection, now)
        size = sum(len(image) for image in held.images)
        self._check_room(connection, held.owner, size)
        about = {
            "request_id": held.request_id,
            "model": held.model,
            "task": held.task,
            "policy": held.policy,
            "reason": held.reason,
            "format": held.format,
            "texts": {name: list(texts) for name, texts in held.texts.items()},
            "values": [dict(values) for values in held.values],
            "images": len(held.images),
        }
        review_id = f"{int(now * 1000):012x}{secrets.token_hex(_ID_BYTES - 6)}"
        connection.execute(
            sa.insert(REVIEWS).values(
                id=review_id,
                owner=held.owner,
                status=ReviewStatus.HELD.value,
                created=now,
                expires=now + self._settings.ttl,
                bytes=size,
                about=json.dumps(about),
            )
        )
        rows = [
            {"review": review_id, "place": place, "data": data}
            for place, data in enumerate(held.images)
        ]
        if rows:
            connection.execute(sa.insert(IMAGES), rows)
        return self._get(connection, review_id, None)

    def _get(self, connection: sa.Connection, review_id: str, owner: str | None) -> Review:
        query = sa.select(REVIEWS).where(REVIEWS.c.id == review_id, REVIEWS.c.expires > self._now())
        row = connection.execute(query).one_or_none()
        if row is None or (owner is not None and row.owner != owner):
            raise ReviewNotFound(
                f"there is no review '{review_id[:40]}'; it may have expired, or belong to "
                "another key",
                param="review_id",
            )
        return _review(row)

    def _decide(
        self, connection: sa.Connection, review_id: str, status: ReviewStatus, by: str, note: str
    ) -> Review:
        found = self._get(connection, review_id, None)
        if self._settings.four_eyes and found.request.owner == by:
            raise Forbidden("another reviewer has to decide on what your own key asked for")
        now = self._now()
        # Of two who decide at once, the second finds no row that is still held.
        changed = connection.execute(
            sa.update(REVIEWS)
            .where(REVIEWS.c.id == review_id, REVIEWS.c.status == ReviewStatus.HELD.value)
            .values(
                status=status.value,
                decided=now,
                decided_by=by,
                note=note,
                expires=max(found.expires, now + self._settings.decided_ttl),
            )
        )
        if changed.rowcount != 1:
            decided = self._get(connection, review_id, None)
            raise ReviewDecided(
                f"review '{review_id}' is decided: {decided.status.value}", param="review_id"
            )
        if status is ReviewStatus.REJECTED:
            connection.execute(sa.delete(IMAGES).where(IMAGES.c.review == review_id))
            connection.execute(sa.update(REVIEWS).where(REVIEWS.c.id == review_id).values(bytes=0))
        return self._get(connection, review_id, None)

    def _check_room(self, connection: sa.Connection, owner: str, size: int) -> None:
        alive = REVIEWS.c.expires > self._now()
        total = sa.select(sa.func.coalesce(sa.func.sum(REVIEWS.c.bytes), 0)).where(alive)
        for used, most, whose in (
            (total, self._settings.max_bytes, "all requests"),
            (total.where(REVIEWS.c.owner == owner), self._settings.max_owner_bytes, "this key"),
        ):
            if int(connection.execute(used).scalar_one()) + size > most:
                raise ReviewsFull(
                    f"what waits for a reviewer may take {most} bytes for {whose}, and there is "
                    "no room for this request; it will be freed as reviewers decide",
                    retry_after=60,
                )

    def _forget(self, connection: sa.Connection, now: float) -> None:
        """Delete what has expired."""
        gone = sa.select(REVIEWS.c.id).where(REVIEWS.c.expires <= now)
        connection.execute(sa.delete(IMAGES).where(IMAGES.c.review.in_(gone)))
        connection.execute(sa.delete(REVIEWS).where(REVIEWS.c.expires <= now))

    def _opened(self) -> sa.Engine:
        with self._lock:
            if self._engine is None:
                self._engine = open_database(self._settings.url(self._folder))
            return self._engine


def _review(row: Any) -> Review:
    about = json.loads(row.about)
    count = about.pop("images")
    return Review(
        id=row.id,
        status=ReviewStatus(row.status),
        created=row.created,
        expires=row.expires,
        request=Held(owner=row.owner, **about),
        image_count=0 if row.status == ReviewStatus.REJECTED else count,
        decided=row.decided,
        decided_by=row.decided_by,
        note=row.note,
    )
