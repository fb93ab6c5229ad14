"""What callers with a quota use: requests as they come, device seconds as they are spent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from services.core.backend import Backend
from services.core.errors import AtelierError, DeadlineExceeded, QuotaExceeded, Withheld
from services.core.job import Answer, Call, CallFinished, Event, Watch
from services.gateway.quotas import Level, Need, Quota, QuotaLedger

if TYPE_CHECKING:  # an exchange knows the gateway's meter
    from services.gateway.exchange import Exchange

REQUESTS, DEVICE_SECONDS = "requests", "device-seconds"


class Meter:
    """Asks the ledger before a caller's work and tells it after.

    Device seconds are charged when they are known: what is left decides whether a call may begin,
    and a call that takes more is finished and its excess owed. A call that is withdrawn after it
    was taken on is charged the seconds until then, which is the most that it can have used; one
    that is refused, or that the service fails, costs nothing; what a policy keeps back after it was
    made costs what it took.
    """

    def __init__(self, ledger: QuotaLedger) -> None:
        """Take the ledger that this machine's gateway replicas share."""
        self._ledger = ledger

    async def count(self, exchange: Exchange) -> None:
        """Count one request.

        Raises:
            QuotaExceeded: there were too many.
        """
        caller = exchange.caller
        if caller.rate is not None:
            need = Need(REQUESTS, caller.rate, 1.0)
            (level,) = await self._ledger.take(caller.owner, [need])
            _note(exchange, level)
            _refuse(level, "requests")

    async def run(self, backend: Backend, exchange: Exchange, call: Call) -> Answer:
        """`Backend.run` for a caller.

        Raises:
            QuotaExceeded: the caller's device seconds are used up.
            AtelierError: as `Backend.run`.
        """
        quota = exchange.caller.device_seconds
        if quota is not None:
            await self._begin(exchange, quota)
        started = time.monotonic()
        try:
            answer = await backend.run(call)
        except (asyncio.CancelledError, DeadlineExceeded):
            if quota is not None:
                await self._spent(exchange, quota, time.monotonic() - started)
            raise
        except Withheld as error:
            await self._withheld(exchange, error)
            raise
        exchange.worked(answer.timings, answer.device_seconds)
        if quota is not None:
            await self._spent(exchange, quota, answer.device_seconds)
        return answer

    async def stream(
        self, backend: Backend, exchange: Exchange, call: Call, watch: Watch
    ) -> AsyncGenerator[Event, None]:
        """`Backend.stream` for a caller.

        Raises:
            QuotaExceeded: before the first event, the caller's device seconds are used up.
            AtelierError: as `Backend.stream`.
        """
        quota = exchange.caller.device_seconds
        if quota is not None:
            await self._begin(exchange, quota)
        started, used = time.monotonic(), None
        try:
            async with aclosing(backend.stream(call, watch)) as events:
                async for event in events:
                    if isinstance(event, CallFinished):
                        used = event.device_seconds
                        exchange.worked(event.timings, used)
                    yield event
        except DeadlineExceeded:
            raise
        except Withheld as error:
            used = error.device_seconds
            exchange.account.withheld(error)
            raise
        except AtelierError:
            used = 0.0
            raise
        finally:
            if quota is not None:
                spent = time.monotonic() - started if used is None else used
                await self._spent(exchange, quota, spent)

    async def check(self, exchange: Exchange) -> None:
        """Refuse work for later where the caller's device seconds are used up now.

        Raises:
            QuotaExceeded: they are.
        """
        quota = exchange.caller.device_seconds
        if quota is not None:
            await self._begin(exchange, quota)

    async def charge(self, owner: str, quota: Quota, seconds: float) -> None:
        """Charge an owner device seconds that were used without a request that waits for them."""
        await self._ledger.charge(owner, Need(DEVICE_SECONDS, quota, seconds))

    async def _begin(self, exchange: Exchange, quota: Quota) -> None:
        need = Need(DEVICE_SECONDS, quota, 0.0)
        (level,) = await self._ledger.take(exchange.caller.owner, [need])
        _note(exchange, level)
        _refuse(level, "device seconds")

    async def _withheld(self, exchange: Exchange, error: Withheld) -> None:
        """What a policy keeps back has been worked for all the same."""
        exchange.device_seconds = (exchange.device_seconds or 0.0) + error.device_seconds
        exchange.account.withheld(error)
        if exchange.caller.device_seconds is not None:
            await self._spent(exchange, exchange.caller.device_seconds, error.device_seconds)

    async def _spent(self, exchange: Exchange, quota: Quota, seconds: float) -> None:
        need = Need(DEVICE_SECONDS, quota, seconds)
        level = await self._ledger.charge(exchange.caller.owner, need)
        _note(exchange, level)


def _note(exchange: Exchange, level: Level) -> None:
    """Have the answer say what is left."""
    exchange.levels[level.name] = level


def _refuse(level: Level, what: str) -> None:
    if level.wait > 0:
        quota = level.quota
        raise QuotaExceeded(
            f"this key may use {quota.amount:g} {what} in {quota.window:g} s, and has; there will "
            f"be more in {level.wait:.1f} s",
            retry_after=level.wait,
        )
