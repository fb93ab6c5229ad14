"""Where reviews are kept: an SQLite file that nobody else can read, or PostgreSQL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services.core.errors import InvalidParameter

_BUSY_SECONDS = 10.0

TABLES = sa.MetaData()
REVIEWS = sa.Table(
    "atelier_reviews",
    TABLES,
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
IMAGES = sa.Table(
    "atelier_review_images",
    TABLES,
    sa.Column("review", sa.String(32), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


def open_database(url: str) -> sa.Engine:
    """Open the database, and make its tables where there are none.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://...``.

    Raises:
        InvalidParameter: it is of another kind.
    """
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
        TABLES.create_all(engine)
    except sa.exc.SQLAlchemyError:
        # Another replica may have been quicker; if not, the second try fails as well.
        TABLES.create_all(engine)


def _prepare_sqlite(connection: Any, record: Any) -> None:  # noqa: ARG001 - SQLAlchemy's signature
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    # Deleted images must not lie about in free pages.
    connection.execute("PRAGMA secure_delete = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    """Take the write lock at once: a transaction that reads first could not get it later."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
