"""Awaiting the backend, and withdrawing the call when nobody wants its answer any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from fastapi import Request
from starlette.types import Receive

from services.core.errors import Canceled, DeadlineExceeded
from services.core.job import Answer, Call
from services.gateway.exchange import Gateway


async def dispatch(gateway: Gateway, request: Request, call: Call) -> Answer:
    """Run a call until it is answered, the client leaves, or its deadline passes.

    However this ends, the backend's run has ended too: it is cancelled once and awaited.

    Raises:
        Canceled: the client left, or the backend withdrew the call.
        DeadlineExceeded: the backend did not answer in time, and did not say so itself.
        AtelierError: whatever the backend raised.
    """
    run: asyncio.Task[Answer] = asyncio.create_task(_awaited(gateway.backend.run(call)))
    gone = asyncio.create_task(_disconnected(request.receive))
    limit = None if call.deadline is None else call.deadline + gateway.settings.deadline_grace
    try:
        await asyncio.wait({run, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if run.cancelled():
            gateway.metrics.canceled("backend")
            raise Canceled("the backend withdrew the call")
        if run.done():
            return run.result()
        if gone.done():
            gone.result()
            gateway.metrics.canceled("client")
            raise Canceled("the client closed the connection")
        gateway.metrics.canceled("deadline")
        raise DeadlineExceeded(
            f"no answer within {call.deadline:.3g} s; ask for less work or allow more time",
            param="deadline",
        )
    except asyncio.CancelledError:
        gateway.metrics.canceled("client")
        raise
    finally:
        await _end(gone)
        await _end(run)


async def _awaited(run: Awaitable[Answer]) -> Answer:
    return await run


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel a task that still runs, once, wait until it has ended, and take note of its error."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
