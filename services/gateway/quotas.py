"""How much a key may use: requests, and seconds of the device, each within a window of time.

A quota of ``60/min`` is a bucket that holds 60 and fills at one a second: a burst of 60 passes, and
from then on one a second. The generic cell rate algorithm (ITU-T I.371, Annex A) keeps it in a
single number, the moment at which the bucket will be full again.

Gateway replicas of one machine share these moments in an SQLite file (write-ahead log), so that
a quota is one quota however many replicas there are, and outlives a restart. A look costs a
transaction of some tenths of a millisecond in a thread of its own; keys without quotas cost none.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from services.core.errors import InvalidParameter

WINDOWS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_QUOTA = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)/(s|min|h|d)")
_BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Quota:
    """``amount`` within every ``window`` seconds."""

    amount: float
    window: float

    @classmethod
    def parse(cls, text: str) -> Quota:
        """Read ``60/min``; the units of time are s, min, h and d.

        Raises:
            InvalidParameter: it is of another form, or the amount is not positive.
        """
        found = _QUOTA.fullmatch(text)
        if found is None or float(found[1]) <= 0:
            raise InvalidParameter(
                f"a quota is an amount above 0 and a window, such as 60/min or 600/h, got "
                f"'{text[:40]}'; windows are {', '.join(WINDOWS)}"
            )
        return cls(float(found[1]), WINDOWS[found[2]])

    @property
    def interval(self) -> float:
        """Seconds in which one unit comes back."""
        return self.window / self.amount


@dataclass(frozen=True, slots=True)
class Level:
    """What is left of a quota.

    Attributes:
        name: of the quota.
        quota: what it allows.
        remaining: what could be used now; below 0 where more was used than there was.
        wait: seconds until what was asked for would be granted; 0 if it was.
    """

    name: str
    quota: Quota
    remaining: float
    wait: float

    @property
    def reset(self) -> float:
        """Seconds until all of it is back."""
        return (self.quota.amount - self.remaining) * self.quota.interval


@dataclass(frozen=True, slots=True)
class Need:
    """So much of a quota, by its name; ``amount`` 0 asks only whether anything is left."""

    name: str
    quota: Quota
    amount: float


class QuotaLedger:
    """What each owner has used, in one SQLite file for all processes of a machine."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Nothing is opened before the first need.

        Args:
            path: the file; it and its folder are made where they are missing.
            now: the clock, the same for every process.
        """
        self._path, self._now = path, now
        self._lock = Lock()
        self._database: sqlite3.Connection | None = None

    async def take(self, owner: str, needs: Sequence[Need]) -> list[Level]:
        """Take all that is needed, or nothing where one of the quotas would be overdrawn.

        Returns:
            One level for each need. Where any has a ``wait`` above 0, nothing was taken.
        """
        return await asyncio.to_thread(self._take, owner, needs, force=False)

    async def charge(self, owner: str, need: Need) -> Level:
        """Take what was used already, whether or not the quota had as much left."""
        (level,) = await asyncio.to_thread(self._take, owner, [need], force=True)
        return level

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _take(self, owner: str, needs: Sequence[Need], *, force: bool) -> list[Level]:
        with self._lock:
            database = self._opened()
            database.execute("BEGIN IMMEDIATE")
            try:
                levels = self._within(database, owner, needs, force=force)
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
        return levels

    def _within(
        self, database: sqlite3.Connection, owner: str, needs: Sequence[Need], *, force: bool
    ) -> list[Level]:
        now = self._now()
        rows = database.execute("SELECT quota, full FROM buckets WHERE owner = ?", (owner,))
        full = {name: max(now, moment) for name, moment in rows}
        levels = [_level(need, full.get(need.name, now), now, force=force) for need in needs]
        if all(level.wait == 0 for level in levels):
            for need in needs:
                moment = full.get(need.name, now) + need.amount * need.quota.interval
                database.execute(
                    "INSERT INTO buckets VALUES (?, ?, ?) "
                    "ON CONFLICT (owner, quota) DO UPDATE SET full = excluded.full",
                    (owner, need.name, moment),
                )
        return levels

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            database = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            database.execute("PRAGMA journal_mode = WAL")
            # A power cut may forget the last moments of use; the file stays whole.
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS buckets (owner TEXT, quota TEXT, full REAL NOT NULL, "
                "PRIMARY KEY (owner, quota)) WITHOUT ROWID"
            )
            self._database = database
        return self._database


def _level(need: Need, full: float, now: float, *, force: bool) -> Level:
    """The state of a bucket that is full again at ``full``, once the need is granted or refused."""
    quota = need.quota
    remaining = quota.amount - (full - now) / quota.interval
    if force:
        return Level(need.name, quota, remaining - need.amount, 0.0)
    # A need of 0 asks for anything at all, and one above the whole amount for a full bucket.
    asked = min(need.amount, quota.amount) if need.amount else 1e-9
    short = asked - remaining
    if short > 1e-9:
        return Level(need.name, quota, remaining, short * quota.interval)
    return Level(need.name, quota, remaining - need.amount, 0.0)


def quota_headers(levels: Sequence[Level]) -> dict[str, str]:
    """``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-09)."""
    if not levels:
        return {}
    policies = [f'"{e.name}";q={_whole(e.quota.amount)};w={_whole(e.quota.window)}' for e in levels]
    limits = [f'"{e.name}";r={_whole(e.remaining)};t={math.ceil(e.reset)}' for e in levels]
    return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(limits)}


def _whole(amount: float) -> int:
    return max(0, math.floor(amount + 1e-6))
