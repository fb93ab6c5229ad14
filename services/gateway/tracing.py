"""The span of each HTTP request, in the words of OpenTelemetry's semantic conventions."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.core.trace_context import Carrier, carrier_of, context_of
from services.gateway.exchange import Exchange, exchange_in

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""What machines ask every few seconds, which would drown everything else."""

_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
_LONGEST_VALUE = 256
_WORDS = ("traceparent", "tracestate")


def carrier_in(scope: Scope) -> Carrier:
    """Where in a trace the client says that its request stands.

    Several ``traceparent`` are as good as none; several ``tracestate`` are one list.
    """
    headers = Headers(scope=scope)
    parents, states = (headers.getlist(word) for word in _WORDS)
    if len(parents) != 1:
        return {}
    return dict(zip(_WORDS, (parents[0], ",".join(states)), strict=True))


class RequestSpan:
    """Makes a span of each exchange but the probes', and says on the exchange where that stands."""

    def __init__(self, app: ASGIApp, *, tracer: Tracer | None = None) -> None:
        self._app = app
        self._tracer = tracer or NoOpTracer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        exchange = exchange_in(scope)
        method = scope["method"] if scope["method"] in _METHODS else "HTTP"
        span = self._tracer.start_span(
            method, _parent(scope), SpanKind.SERVER, _asked(scope, exchange)
        )
        exchange.trace = carrier_of(span)
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            if span.is_recording():
                code = exchange.fate or status or 500
                route = getattr(scope.get("route"), "path", None)
                span.update_name(method if route is None else f"{method} {route}")
                span.set_attributes(_answered(exchange, route, code))
                if code >= 500:
                    span.set_status(Status(StatusCode.ERROR))
            span.end()


def _parent(scope: Scope) -> Context:
    return context_of(carrier_in(scope))


def _asked(scope: Scope, exchange: Exchange) -> Mapping[str, AttributeValue]:
    """What is known of a request at once. The query is left out: it may hold what is secret."""
    headers = Headers(scope=scope)
    known = scope["method"] in _METHODS
    said: dict[str, AttributeValue] = {
        "http.request.method": scope["method"] if known else "_OTHER",
        "url.path": scope["path"][:_LONGEST_VALUE],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "user_agent.original": headers.get("user-agent", "")[:_LONGEST_VALUE],
        "atelier.request_id": exchange.id,
    }
    for name, place in (("client", scope.get("client")), ("server", scope.get("server"))):
        if place:
            said[f"{name}.address"] = place[0]
        if place and place[1] is not None:
            said[f"{name}.port"] = place[1]
    return said


def _answered(exchange: Exchange, route: str | None, code: int) -> Mapping[str, AttributeValue]:
    said: dict[str, AttributeValue] = {
        "http.response.status_code": code,
        "atelier.model": exchange.model,
        "atelier.task": exchange.task,
    }
    if route is not None:
        said["http.route"] = route
    if code >= 500:
        said["error.type"] = str(code)
    if exchange.device_seconds is not None:
        said["atelier.device_seconds"] = exchange.device_seconds
    return said
