"""Webhooks in the database: whose secrets sign them, and what is still to be delivered.

Every replica reads and writes the same rows. A replica takes a row by a lease: should it die, the
lease runs out, and another replica, or the next start, takes the row again.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.core.errors import Unavailable
from services.jobs.database import Database
from services.jobs.tables import ID, OWNER, metadata

PENDING, DELIVERED, GONE, REFUSED, GIVEN_UP = "pending", "delivered", "gone", "refused", "given_up"
"""``gone``: the receiver said so by 410. ``refused``: the address may not be reached. ``given_up``:
it was tried as often as may be."""

_SECRET_BYTES = 32
_SECRETS = sa.Table(
    "atelier_webhook_secrets",
    metadata,
    sa.Column("owner", OWNER, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("secret", sa.String(128), nullable=False),
    sa.Column("ends", sa.Double),
)
_DELIVERIES = sa.Table(
    "atelier_webhook_deliveries",
    metadata,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("owner", OWNER, nullable=False),
    sa.Column("job", ID, nullable=False, index=True),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("due", sa.Double, nullable=False),
    sa.Column("lease", sa.Double, nullable=False),
    sa.Column("claim", sa.String(32)),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("said", sa.Text),
    sa.Index("atelier_webhook_due", "state", "due"),
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one receiver. Times are seconds since 1970.

    Attributes:
        id: the ``webhook-id``, the same at every attempt.
        owner: whose job it tells of.
        job: the job's id.
        event: such as ``job.succeeded``.
        url: of the receiver.
        body: what is sent.
        state: one of this module's words.
        created: when the event happened.
        due: when it is tried next.
        attempts: how often it was tried.
        said: what the last attempt came to.
    """

    id: str
    owner: str
    job: str
    event: str
    url: str
    body: str
    created: float
    state: str = PENDING
    due: float = 0.0
    attempts: int = 0
    said: str | None = None


_FIELDS = tuple(Delivery.__dataclass_fields__)


class WebhookStore:
    """The tables, in the database of the jobs, which makes them when it is opened.

    Every method raises `Unavailable` where the database cannot be reached. Times are seconds since
    1970, by the clocks of the replicas: where these differ by more than a lease lasts beyond its
    attempt, an event may arrive twice.
    """

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    async def secrets(self, owner: str, now: float) -> list[str]:
        """The secrets that sign an owner's webhooks, the newest first; made on first use.

        Args:
            owner: whose.
            now: those that have ended by then do not sign.
        """

        def ask(connection: sa.Connection) -> list[str]:
            return _active(connection, owner, now)

        found = await self._database.read(ask)
        if found:
            return found
        with contextlib.suppress(sa.exc.IntegrityError):  # another replica was first
            await self._database.write(lambda connection: _make_secret(connection, owner, 1))
        return await self._database.read(ask)

    async def rotate(self, owner: str, now: float, *, grace: float) -> list[str]:
        """Make a new secret; those before it sign beside it for a while longer.

        Args:
            owner: whose.
            now: when.
            grace: seconds.

        Raises:
            Unavailable: somebody else made one at the same moment.
        """
        await self.secrets(owner, now)
        try:
            return await self._database.write(
                lambda connection: _rotate(connection, owner, now, now + grace)
            )
        except sa.exc.IntegrityError as error:
            raise Unavailable("the secret was rotated just now by somebody else") from error

    async def add(self, delivery: Delivery) -> bool:
        """Keep a delivery to be made; false where it was kept before, or the receiver is gone."""
        row = {name: getattr(delivery, name) for name in _FIELDS} | {"lease": 0.0}
        table = _DELIVERIES.c

        def insert(connection: sa.Connection) -> bool:
            gone = sa.select(table.id).where(
                table.job == delivery.job, table.url == delivery.url, table.state == GONE
            )
            if connection.execute(gone.limit(1)).first() is not None:
                return False
            connection.execute(sa.insert(_DELIVERIES).values(row))
            return True

        try:
            return await self._database.write(insert)
        except sa.exc.IntegrityError:
            return False

    async def claim(
        self, now: float, *, lease: float, most: int, per_owner: int
    ) -> tuple[str, list[Delivery]]:
        """Take some deliveries that are due, and the right to settle them.

        Args:
            now: when.
            lease: seconds until somebody else may take them.
            most: how many.
            per_owner: how many of one owner are under way at once, over all replicas: a slow
                receiver keeps nobody else's waiting.

        Returns:
            The claim that `settle` takes, and the deliveries.
        """
        claim = secrets.token_hex(8)
        taken = (
            sa.update(_DELIVERIES)
            .where(_DELIVERIES.c.id.in_(_free(now, most, per_owner)))
            .values(lease=now + lease, claim=claim, attempts=_DELIVERIES.c.attempts + 1)
        )

        def take(connection: sa.Connection) -> list[Delivery]:
            connection.execute(taken)
            return _read(connection, _DELIVERIES.c.claim == claim)

        return claim, await self._database.write(take)

    async def settle(
        self, claim: str, delivery: str, *, state: str, said: str, due: float | None = None
    ) -> bool:
        """Say what came of an attempt; false where the lease had run out and another took it.

        Args:
            claim: by which it was taken.
            delivery: its id.
            state: from now on; one that is ``gone`` takes the job's others with it.
            said: what the attempt came to.
            due: when it is tried again.
        """
        values: dict[str, Any] = {"state": state, "said": said, "claim": None, "lease": 0.0}
        if due is not None:
            values["due"] = due

        def update(connection: sa.Connection) -> bool:
            table = _DELIVERIES.c
            found = connection.execute(
                sa.update(_DELIVERIES)
                .where(table.id == delivery, table.claim == claim)
                .values(values)
                .returning(table.job, table.url)
            ).first()
            if found is not None and state == GONE:
                connection.execute(
                    sa.update(_DELIVERIES)
                    .where(table.job == found.job, table.url == found.url)
                    .where(table.state == PENDING)
                    .values(state=GONE, said="the receiver had answered 410 before")
                )
            return found is not None

        return await self._database.write(update)

    async def of_job(self, owner: str, job: str) -> list[Delivery]:
        """What was and is to be delivered of an owner's job, in the order of the events."""
        which = sa.and_(_DELIVERIES.c.owner == owner, _DELIVERIES.c.job == job)
        return await self._database.read(lambda connection: _read(connection, which))

    async def next_due(self) -> float | None:
        """When the next delivery is due that nobody has taken, or its lease ends."""
        table = _DELIVERIES.c
        when = sa.case((table.lease > table.due, table.lease), else_=table.due)
        query = sa.select(sa.func.min(when)).where(table.state == PENDING)
        found: float | None = await self._database.read(lambda c: c.scalar(query))
        return found

    async def forget(self, before: float) -> int:
        """Remove what came to its end and happened before a time; says how many."""
        table = _DELIVERIES.c
        query = sa.delete(_DELIVERIES).where(table.state != PENDING, table.created < before)
        return await self._database.write(lambda c: c.execute(query).rowcount)


def _make_secret(connection: sa.Connection, owner: str, generation: int) -> None:
    secret = base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    row = {"owner": owner, "generation": generation, "secret": f"whsec_{secret}"}
    connection.execute(sa.insert(_SECRETS).values(row))


def _active(connection: sa.Connection, owner: str, now: float) -> list[str]:
    ends = _SECRETS.c.ends
    query = (
        sa.select(_SECRETS.c.secret)
        .where(_SECRETS.c.owner == owner, sa.or_(ends.is_(None), ends > now))
        .order_by(_SECRETS.c.generation.desc())
    )
    return list(connection.scalars(query))


def _rotate(connection: sa.Connection, owner: str, now: float, ends: float) -> list[str]:
    table = _SECRETS.c
    of_owner = table.owner == owner
    last = connection.scalar(sa.select(sa.func.max(table.generation)).where(of_owner)) or 0
    _make_secret(connection, owner, last + 1)
    connection.execute(
        sa.update(_SECRETS)
        .where(of_owner, table.generation <= last)
        .where(sa.or_(table.ends.is_(None), table.ends > ends))
        .values(ends=ends)
    )
    connection.execute(sa.delete(_SECRETS).where(of_owner, table.ends <= now))
    return _active(connection, owner, now)


def _free(now: float, most: int, per_owner: int) -> sa.Select[tuple[str]]:
    """The ids of what is due and may be taken, locked where rows can be."""
    table = _DELIVERIES.c
    # Those under way come first, so that they use up their owner's places.
    order = ((table.lease > now).desc(), table.due, table.id)
    rank = sa.func.row_number().over(partition_by=table.owner, order_by=order)
    ranked = (
        sa.select(table.id, table.lease, table.due, rank.label("rank"))
        .where(table.state == PENDING, table.due <= now)
        .subquery()
    )
    free = (
        sa.select(ranked.c.id)
        .where(ranked.c.lease <= now, ranked.c.rank <= per_owner)
        .order_by(ranked.c.due, ranked.c.id)
        .limit(most)
    )
    # PostgreSQL lets nobody lock what was ranked, hence a query around it. Of two replicas that
    # ask at once, neither waits for the other, nor takes the same.
    return (
        sa.select(table.id)
        .where(table.id.in_(free), table.lease <= now, table.state == PENDING)
        .with_for_update(skip_locked=True)
    )


def _read(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Delivery]:
    query = (
        sa.select(*(_DELIVERIES.c[name] for name in _FIELDS))
        .where(which)
        .order_by(_DELIVERIES.c.created, _DELIVERIES.c.id)
    )
    return [Delivery(**row) for row in connection.execute(query).mappings()]
