"""Awaiting the backend, and withdrawing the call when nobody wants its answer any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Receive

from services.core.errors import Canceled, DeadlineExceeded
from services.core.job import Answer, Call
from services.gateway.exchange import Exchange, Gateway, exchange_of

T = TypeVar("T")


async def dispatch(gateway: Gateway, request: Request, call: Call) -> Answer:
    """Run a call until it is answered, the client leaves, or its deadline passes.

    Raises:
        AtelierError: see `attended`.
    """
    limit, exchange = time_limit(gateway, call), exchange_of(request)
    work = gateway.meter.run(gateway.backend, exchange, call)
    return await attended(gateway, exchange, request.receive, work, limit)


def time_limit(gateway: Gateway, call: Call) -> float | None:
    """Seconds that the backend has for a call, with those for its own refusal at the end."""
    return None if call.deadline is None else call.deadline + gateway.settings.deadline_grace


async def attended(
    gateway: Gateway,
    exchange: Exchange,
    receive: Receive,
    work: Awaitable[T],
    limit: float | None,
) -> T:
    """Await work for a client for as long as the client wants it, and no longer than ``limit``.

    However this ends, the work has ended too: it is cancelled once and awaited.

    Args:
        gateway: counts what is withdrawn.
        exchange: says whether the request was withdrawn.
        receive: of the client's connection.
        work: what is awaited.
        limit: in seconds from now; ``None`` for no limit.

    Raises:
        Canceled: the client left, the request was withdrawn, or the backend withdrew the call.
        DeadlineExceeded: the backend did not answer in time, and did not say so itself.
        AtelierError: whatever the backend raised.
    """
    run: asyncio.Task[T] = asyncio.create_task(awaited(work))
    gone = asyncio.create_task(_disconnected(receive))
    withdrawn = asyncio.create_task(exchange.withdrawn.wait())
    try:
        ends = {run, gone, withdrawn}
        await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if run.cancelled():
            gateway.metrics.canceled("backend")
            raise Canceled("the backend withdrew the call")
        if run.done():
            return run.result()
        if gone.done():
            gone.result()
            gateway.metrics.canceled("client")
            raise Canceled("the client closed the connection")
        if withdrawn.done():
            gateway.metrics.canceled("delete")
            raise Canceled(f"the request was withdrawn: DELETE /v1/requests/{exchange.id}")
        gateway.metrics.canceled("deadline")
        raise DeadlineExceeded(
            "the deadline passed without an answer; ask for less work or allow more time",
            param="deadline",
        )
    except asyncio.CancelledError:
        gateway.metrics.canceled("client")
        raise
    finally:
        await ended(withdrawn, gone, run)


async def awaited(work: Awaitable[T]) -> T:
    """What any awaitable gives, as a coroutine, which alone can become a task."""
    return await work


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs, once, wait until all have ended, and take note of their errors."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in tasks:
        if not task.cancelled():
            task.exception()
