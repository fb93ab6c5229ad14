"""What happens to every request before and after its route, as plain ASGI."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Iterable, Mapping

from opentelemetry.trace import format_span_id, format_trace_id
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.core.errors import AtelierError, BadRequest, HeadersTooLarge, TooLarge
from services.core.logs import fields, speaking_of
from services.core.trace_context import named_by
from services.gateway.answers import server_timing
from services.gateway.errors import error_response, unexpected_response
from services.gateway.exchange import STATE_KEY, Exchange, InFlight, exchange_in
from services.gateway.metrics import GatewayMetrics
from services.gateway.quotas import quota_headers
from services.gateway.settings import GatewaySettings
from services.gateway.tracing import PROBES

REQUEST_ID = "x-request-id"
UNTRUSTED = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Headers by which a client could command the server behind us."""

Header = tuple[bytes, bytes]

ALWAYS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
"""Headers of every response."""
UNLESS_SAID = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
"""Headers of every response that says nothing else."""
CLIENT_GONE = 499

_LONGEST_LENGTH = 18
_OWNER_SHOWN = 12
"""Characters: an owner may be the digest of a key, of which logs need not hold the whole."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOG = logging.getLogger(__name__)


def identify(scope: Scope) -> str:
    """The client's request id where it is well formed, else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


class RequestIdentity:
    """Opens the exchange and drops headers that are not the client's to send."""

    def __init__(self, app: ASGIApp, *, in_flight: InFlight, emit: bool = True) -> None:
        self._app = app
        self._in_flight = in_flight
        self._emit = emit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with exactly one ``x-request-id``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = identify(scope)
        kept = [(k, v) for k, v in scope["headers"] if k.lower() not in UNTRUSTED]
        exchange = Exchange(request_id)
        state = {**scope.get("state", {}), STATE_KEY: exchange}

        async def identified(message: Message) -> None:
            if self._emit and message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with self._in_flight.entered(exchange), speaking_of(request_id=request_id):
            await self._app({**scope, "headers": kept, "state": state}, receive, identified)


class Observation:
    """Counts, times and logs each exchange, and turns whatever escaped into a plain 500."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the security headers and ``server-timing`` with every response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = exchange_in(scope)
        with speaking_of(**_place(exchange)):
            await self._observe(exchange, scope, receive, send)

    async def _observe(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message.get("headers", ()), exchange)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:
            status = CLIENT_GONE
            raise
        except Exception:
            _LOG.exception("request %s failed unexpectedly", exchange.id)
            if status:
                raise
            await unexpected_response(exchange.id, scope["path"])(scope, receive, observed)
        finally:
            self._record(scope, exchange, exchange.fate or status or 500)

    def _record(self, scope: Scope, exchange: Exchange, status: int) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        seconds = exchange.elapsed()
        self._metrics.answered(
            route=route,
            model=exchange.model,
            task=exchange.task,
            code=status,
            seconds=seconds,
            trace_id=_sampled(exchange),
        )
        _LOG.log(
            logging.DEBUG if scope["path"] in PROBES else logging.INFO,
            "%s %s %d",
            scope["method"],
            route,
            status,
            extra=fields(
                method=scope["method"],
                route=route,
                status=status,
                model=exchange.model,
                task=exchange.task,
                owner=exchange.owner[:_OWNER_SHOWN],
                seconds=round(seconds, 6),
                device_seconds=exchange.device_seconds,
            ),
        )


def _place(exchange: Exchange) -> Mapping[str, str]:
    """Where in a trace an exchange stands, as log lines say it; nothing outside any trace."""
    span = named_by(exchange.trace)
    if not span.is_valid:
        return {}
    return {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}


def _sampled(exchange: Exchange) -> str:
    """The id of the trace that an exchange is seen in; empty where nobody keeps it."""
    span = named_by(exchange.trace)
    return format_trace_id(span.trace_id) if span.trace_flags.sampled else ""


def _completed(headers: Iterable[Header], exchange: Exchange) -> list[Header]:
    """The headers of a response with those that every response has."""
    kept = [header for header in headers if header[0] not in ALWAYS]
    named = {name for name, _ in kept}
    total = f"total;dur={exchange.elapsed() * 1000:.3f}"
    stages = [] if exchange.timings is None else [server_timing(exchange.timings)]
    quotas = quota_headers(list(exchange.levels.values()))
    return [
        *kept,
        *ALWAYS.items(),
        *((name, value) for name, value in UNLESS_SAID.items() if name not in named),
        *((name.encode(), value.encode()) for name, value in quotas.items()),
        (b"server-timing", ", ".join([*stages, total]).encode()),
    ]


class BodyLimit:
    """Stops reading a body at the limit, whatever length it claims, and when it comes too slowly.

    The connection is closed then, since the rest of the body is still on its way.
    """

    def __init__(self, app: ASGIApp, *, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise the typed error from ``receive``, or refuse before the route is entered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reader = _BoundedReader(receive, self._settings)

        async def closing(message: Message) -> None:
            if reader.tripped and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        refusal = refuse_headers(scope, self._settings) or reader.refuse_claim(
            Headers(scope=scope).get("content-length")
        )
        if refusal is not None:
            self._metrics.rejected(refusal.code)
            await error_response(refusal, scope["path"])(scope, receive, closing)
            return
        await self._app(scope, reader, closing)


def refuse_headers(scope: Scope, settings: GatewaySettings) -> AtelierError | None:
    """The error for a request with more header fields, or bytes of them, than it may have."""
    fields = scope["headers"]
    size = sum(len(name) + len(value) for name, value in fields)
    if len(fields) <= settings.max_header_fields and size <= settings.max_header_bytes:
        return None
    return HeadersTooLarge(
        f"{len(fields)} header fields of {size} bytes; the limit is {settings.max_header_fields} "
        f"of {settings.max_header_bytes} bytes"
    )


class _BoundedReader:
    """An ASGI ``receive`` that counts."""

    def __init__(self, receive: Receive, settings: GatewaySettings) -> None:
        self._receive = receive
        self._limit = settings.max_body_bytes
        self._most_chunks = settings.max_body_chunks
        self._timeout = settings.body_timeout
        self._deadline = asyncio.get_running_loop().time() + settings.body_timeout
        self._size = self._chunks = 0
        self._complete = False
        self.tripped = False

    def refuse_claim(self, length: str | None) -> TooLarge | BadRequest | None:
        """The error for a body that says it is over the limit."""
        if length is None:
            return None
        self.tripped = True
        if not (length.isascii() and length.isdigit()):
            return BadRequest("the content-length is not a number")
        if len(length) > _LONGEST_LENGTH or int(length) > self._limit:
            return self._over()
        self.tripped = False
        return None

    def _over(self) -> TooLarge:
        return TooLarge(f"the body is too large; the limit is {self._limit} bytes")

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            self.tripped = True
            raise BadRequest(f"the body did not arrive within {self._timeout:g} s") from error
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._chunks += 1
            self._complete = not message.get("more_body", False)
        if self._size > self._limit:
            self.tripped = True
            raise self._over()
        if self._chunks > self._most_chunks:
            self.tripped = True
            raise TooLarge(
                f"the body came in more than {self._most_chunks} pieces; send larger ones"
            )
        return message
