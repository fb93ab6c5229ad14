"""A call's events on their way to a client, as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.core.errors import AtelierError, Canceled, HeldForReview
from services.core.job import Call, Event, Watch
from services.gateway.answers import finite
from services.gateway.dispatch import attended, awaited, ended, time_limit
from services.gateway.envelopes import envelope
from services.gateway.errors import review_of, status_of
from services.gateway.exchange import Exchange, Gateway, exchange_of
from services.gateway.negotiation import EVENT_STREAM

Frame = tuple[str, Mapping[str, Any]]
"""An event's name and its data."""
Words = Callable[[Event], Frame | None]
"""How an API speaks of an event; ``None`` where it does not."""

HEARTBEAT = b": still here\n\n"
LAST_WORDS_SECONDS = 5.0
"""A client that does not read is told why its stream ends for no longer than this."""
CLIENT_GONE = 499

_LOG = logging.getLogger(__name__)


def encoded(frame: Frame) -> bytes:
    """A frame as bytes, with the blank line that ends it."""
    name, data = frame
    return f"event: {name}\ndata: {json.dumps(finite(data), allow_nan=False)}\n\n".encode()


async def open_stream(
    gateway: Gateway, request: Request, call: Call, watch: Watch, words: Words
) -> EventStream:
    """Start a call and wait for its first event, so that a refusal is an ordinary response.

    Raises:
        AtelierError: as `services.gateway.dispatch.attended`.
    """
    limit = time_limit(gateway, call)
    ends = None if limit is None else time.monotonic() + limit
    exchange = exchange_of(request)
    events = gateway.meter.stream(gateway.backend, exchange, call, watch)
    try:
        first = await attended(gateway, exchange, request.receive, anext(events), limit)
    except BaseException:
        await events.aclose()
        raise
    return EventStream(gateway, exchange, first, events, words, ends)


class EventStream(Response):
    """Sends events as they come, for as long as the client is there.

    Each is sent only when the client took the one before: a slow client slows nothing but itself,
    since the backend keeps no more than the latest of what was not read.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        first: Event,
        events: AsyncGenerator[Event, None],
        words: Words,
        ends: float | None,
    ) -> None:
        """Take over a stream that has begun; ``ends`` is on ``time.monotonic``."""
        self.status_code = 200
        self.background = None
        # Proxies that buffer answers or rewrite them are asked not to.
        self.init_headers({"cache-control": "no-store, no-transform", "x-accel-buffering": "no"})
        self._gateway, self._exchange = gateway, exchange
        self._first, self._events, self._words, self._ends = first, events, words, ends

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002 - part of ASGI's signature
        receive: Receive,
        send: Send,
    ) -> None:
        """See the ASGI specification."""
        line = _Line(receive)
        limit = None if self._ends is None else self._ends - time.monotonic()
        headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        try:
            work = self._carry(start, send)
            await attended(self._gateway, self._exchange, line, work, limit)
        except AtelierError as error:
            self._exchange.fate = status = CLIENT_GONE if line.gone else status_of(error)
            body = envelope(status, error.message, error.code, error.param)
            if isinstance(error, HeldForReview):
                body["error"]["review"] = review_of(error)
        except Exception:  # noqa: BLE001 - a bug; the client must hear that its stream ends here
            _LOG.exception("request %s failed unexpectedly", self._exchange.id)
            self._exchange.fate = 500
            message = f"the service failed unexpectedly; it was logged as {self._exchange.id}"
            body = envelope(500, message, AtelierError.code)
        else:
            await send(_body(b"", more=False))
            return
        if not line.gone:
            await _last_words(send, encoded(("error", body)))

    async def _carry(self, start: Message, send: Send) -> None:
        """Send the first event and all that follow, and signs of life between them."""
        upcoming: asyncio.Task[Event | None] | None = None
        pulse = self._gateway.settings.stream_heartbeat
        event: Event | None = self._first
        try:
            await send(start)
            while event is not None:
                frame = self._words(event)
                if frame is not None:
                    await self._hand(encoded(frame), send)
                upcoming = asyncio.create_task(awaited(anext(self._events, None)))
                while not (await asyncio.wait({upcoming}, timeout=pulse))[0]:
                    await self._hand(HEARTBEAT, send)
                event = upcoming.result()
        finally:
            if upcoming is not None:
                await ended(upcoming)
            await self._events.aclose()

    async def _hand(self, data: bytes, send: Send) -> None:
        """Send data to a client that may take its time, though not for ever.

        Raises:
            Canceled: it did not take it.
        """
        patience = self._gateway.settings.stream_patience
        try:
            async with asyncio.timeout(patience):
                await send(_body(data))
        except TimeoutError as error:
            self._gateway.metrics.canceled("client")
            raise Canceled(f"the client took nothing of its stream for {patience:g} s") from error


class _Line:
    """An ASGI ``receive`` that remembers whether the client has hung up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.gone = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.gone = self.gone or message["type"] == "http.disconnect"
        return message


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _last_words(send: Send, data: bytes) -> None:
    try:
        async with asyncio.timeout(LAST_WORDS_SECONDS):
            await send(_body(data, more=False))
    except TimeoutError:
        _LOG.info("a client did not take the error that ended its stream")
