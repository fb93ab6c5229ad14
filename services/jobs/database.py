"""The database behind jobs, SQLite or PostgreSQL: transactions in threads, errors by our names."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.core.errors import InvalidParameter, Unavailable
from services.jobs.tables import metadata

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

_THREADS = 4
_BUSY_SECONDS = 10.0
_CONNECT_SECONDS = 5
_STATEMENT_MILLISECONDS = 30_000
_IDLE_MILLISECONDS = 10_000
_LOCK = 0x61746C6A6F62
"""PostgreSQL's advisory lock under which jobs are accepted, one after the other."""
_LONGEST_PAUSE = 2.0

_LOG = logging.getLogger(__name__)


class Database:
    """Runs transactions. What reads sees a whole state; what writes is alone, or retried.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://...``.
    """

    def __init__(self, url: str) -> None:
        """Nothing is opened before `open`.

        Raises:
            InvalidParameter: the URL names another database.
        """
        try:
            self._url = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise InvalidParameter(f"the database of jobs has no valid URL: {error}") from error
        self.embedded = self._url.get_backend_name() == "sqlite"
        if not self.embedded and self._url.get_backend_name() != "postgresql":
            raise InvalidParameter(
                f"jobs are kept in sqlite:///FILE or postgresql://..., not in "
                f"{self._url.get_backend_name()}"
            )
        self._engine: sa.Engine | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="atelier-jobs")

    @property
    def url(self) -> str:
        """With its password, as other libraries take it."""
        return self._url.render_as_string(hide_password=False)

    async def open(self) -> None:
        """Connect, and make the tables that are missing.

        Raises:
            Unavailable: it cannot be reached.
        """
        await asyncio.get_running_loop().run_in_executor(self._threads, self._open)

    async def close(self) -> None:
        """Let every connection go."""
        if self._engine is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._engine.dispose)
        self._threads.shutdown(wait=False)

    async def read(self, work: Work[T]) -> T:
        """Run a transaction that writes nothing.

        Raises:
            Unavailable: the database did not answer.
        """
        return await self._run(work, reading=True)

    async def write(self, work: Work[T]) -> T:
        """Run a transaction: all of it happens, or nothing.

        Raises:
            Unavailable: the database did not answer; whether it happened is not known.
        """
        return await self._run(work, reading=False)

    async def insist(self, work: Work[T]) -> T:
        """`write`, again and again until the database has answered.

        ``work`` must be such that it may happen twice.
        """
        pause = 0.05
        while True:
            try:
                return await self.write(work)
            except Unavailable as error:
                _LOG.warning("jobs wait for their database: %s", error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def clock(self) -> Any:
        """Seconds since 1970, by one clock for every replica, as an SQL expression."""
        if self.embedded:
            return sa.literal(time.time())
        return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)

    def alone(self, connection: sa.Connection) -> None:
        """Keep other transactions that call this out until this one has ended."""
        if not self.embedded:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    async def _run(self, work: Work[T], *, reading: bool) -> T:
        def transaction() -> T:
            if self._engine is None:
                raise Unavailable("jobs are not being taken yet", retry_after=1.0)
            options = {"reading": reading}
            with (
                _translated(),
                self._engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._threads, transaction)

    def _open(self) -> None:
        with _translated():
            engine = self._sqlite() if self.embedded else self._postgres()
            try:
                with engine.connect() as connection, connection.begin():
                    self.alone(connection)
                    metadata.create_all(connection)
            except BaseException:
                engine.dispose()
                raise
        self._engine = engine

    def _sqlite(self) -> sa.Engine:
        path = Path(self._url.database or "")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        engine = sa.create_engine(self._url, connect_args={"timeout": _BUSY_SECONDS})

        @sa.event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: object) -> None:
            connection.isolation_level = None  # transactions are begun below
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            reading = connection.get_execution_options().get("reading", False)
            # Who will write says so at once: two who began by reading could not both go on.
            connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

        return engine

    def _postgres(self) -> sa.Engine:
        return sa.create_engine(
            self._url.set(drivername="postgresql+psycopg"),
            pool_size=_THREADS,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                # A replica that was stopped in the middle lets go of what it holds.
                "options": f"-c statement_timeout={_STATEMENT_MILLISECONDS} "
                f"-c idle_in_transaction_session_timeout={_IDLE_MILLISECONDS}",
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
            },
        )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        if isinstance(error, sa.exc.ProgrammingError | sa.exc.IntegrityError | sa.exc.DataError):
            raise
        _LOG.info("the database of jobs failed", exc_info=error)
        raise Unavailable(
            "the database of jobs cannot be reached; try again", retry_after=1.0
        ) from error
