"""What waits for a reviewer: kept once, decided once, forgotten in time.

Requests and their images stand in one database: an SQLite file that nobody else can read, shared by
the gateway's replicas on a machine, or PostgreSQL where they are on several. Images lie in it and
not beside it, so that a review and its images are there together or not at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from services.core.errors import (
    Forbidden,
    InvalidParameter,
    ReviewDecided,
    ReviewNotFound,
    ReviewsFull,
    Unavailable,
)
from services.policies.settings import ReviewSettings

T = TypeVar("T")

MOST_LISTED = 100
_BUSY_SECONDS = 10.0
_ID_BYTES = 12
_LOCK = 0x61746C726576
"""PostgreSQL's advisory lock under which the room that is left is given away."""

_TABLES = sa.MetaData()
_REVIEWS = sa.Table(
    "atelier_reviews",
    _TABLES,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False, index=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("decided", sa.Float),
    sa.Column("decided_by", sa.Text),
    sa.Column("note", sa.Text),
)
_IMAGES = sa.Table(
    "atelier_review_images",
    _TABLES,
    sa.Column("review", sa.String(32), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


class ReviewStatus(StrEnum):
    """How far a review is."""

    HELD = "held"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Held:
    """A request whose images wait.

    Attributes:
        owner: whose request it is.
        request_id: its id.
        model: that made the images.
        task: the task, or the operation of an edit.
        policy: the rule that held it.
        reason: why.
        format: of the images: ``png``, ``jpeg`` or ``webp``.
        texts: what was asked for in words, by field; reviewers see it.
        values: beside each image, such as its seed.
        images: encoded.
    """

    owner: str
    request_id: str
    model: str
    task: str
    policy: str
    reason: str
    format: str
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    values: Sequence[Mapping[str, Any]] = ()
    images: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Review:
    """A request and what became of it; times are seconds since 1970.

    ``images`` is how many there are; `ReviewStore.images` gives them. ``decided_by`` is the owner
    of the reviewer's key, or who decided on the machine itself; ``note`` what they said.
    """

    id: str
    status: ReviewStatus
    created: float
    expires: float
    request: Held
    image_count: int
    decided: float | None = None
    decided_by: str | None = None
    note: str | None = None


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
            query = sa.select(_IMAGES.c.data).where(_IMAGES.c.review == review_id)
            return [bytes(row.data) for row in connection.execute(query.order_by(_IMAGES.c.place))]

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
            query = sa.select(_REVIEWS).where(_REVIEWS.c.expires > self._now())
            if owner is not None:
                query = query.where(_REVIEWS.c.owner == owner)
            if status is not None:
                query = query.where(_REVIEWS.c.status == status.value)
            if after is not None:
                query = query.where(_REVIEWS.c.id > after)
            rows = connection.execute(query.order_by(_REVIEWS.c.id).limit(limit))
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
            sa.insert(_REVIEWS).values(
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
            connection.execute(sa.insert(_IMAGES), rows)
        return self._get(connection, review_id, None)

    def _get(self, connection: sa.Connection, review_id: str, owner: str | None) -> Review:
        query = sa.select(_REVIEWS).where(
            _REVIEWS.c.id == review_id, _REVIEWS.c.expires > self._now()
        )
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
            sa.update(_REVIEWS)
            .where(_REVIEWS.c.id == review_id, _REVIEWS.c.status == ReviewStatus.HELD.value)
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
            connection.execute(sa.delete(_IMAGES).where(_IMAGES.c.review == review_id))
            connection.execute(
                sa.update(_REVIEWS).where(_REVIEWS.c.id == review_id).values(bytes=0)
            )
        return self._get(connection, review_id, None)

    def _check_room(self, connection: sa.Connection, owner: str, size: int) -> None:
        alive = _REVIEWS.c.expires > self._now()
        total = sa.select(sa.func.coalesce(sa.func.sum(_REVIEWS.c.bytes), 0)).where(alive)
        for used, most, whose in (
            (total, self._settings.max_bytes, "all requests"),
            (total.where(_REVIEWS.c.owner == owner), self._settings.max_owner_bytes, "this key"),
        ):
            if int(connection.execute(used).scalar_one()) + size > most:
                raise ReviewsFull(
                    f"what waits for a reviewer may take {most} bytes for {whose}, and there is "
                    "no room for this request; it will be freed as reviewers decide",
                    retry_after=60,
                )

    def _forget(self, connection: sa.Connection, now: float) -> None:
        """Delete what has expired."""
        gone = sa.select(_REVIEWS.c.id).where(_REVIEWS.c.expires <= now)
        connection.execute(sa.delete(_IMAGES).where(_IMAGES.c.review.in_(gone)))
        connection.execute(sa.delete(_REVIEWS).where(_REVIEWS.c.expires <= now))

    def _opened(self) -> sa.Engine:
        with self._lock:
            if self._engine is None:
                self._engine = _open(self._settings.url(self._folder))
            return self._engine


def _open(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidParameter(
            f"reviews are kept in sqlite:///FILE or postgresql://..., not in "
            f"{parsed.get_backend_name()}"
        )
    if parsed.get_backend_name() == "postgresql":
        engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    else:
        path = Path(parsed.database or "")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    _make_tables(engine)
    return engine


def _make_tables(engine: sa.Engine) -> None:
    try:
        _TABLES.create_all(engine)
    except sa.exc.SQLAlchemyError:
        # Another replica may have been quicker; if not, the second try fails as well.
        _TABLES.create_all(engine)


def _prepare_sqlite(connection: Any, record: Any) -> None:  # noqa: ARG001 - SQLAlchemy's signature
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    # Deleted images must not lie about in free pages.
    connection.execute("PRAGMA secure_delete = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    """Take the write lock at once: a transaction that reads first could not get it later."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


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
