"""What happens to a request before Ray Serve itself looks at it.

Serve lets any client lift its timeout or switch off the handling of its disconnect by a header,
and appends its own ``x-request-id`` to the answer. Named by `EDGE_VARIABLE`, `middlewares` is put
around everything that accepts HTTP: proxies, and replicas that HAProxy reaches directly.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EDGE_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
EDGE_PATH = f"{__name__}:middlewares"

RESERVED_HEADERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
REQUEST_ID = b"x-request-id"


class Edge:
    """Strips the headers that are Serve's own, and lets one request id out."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_one_id(list(message.get("headers", ())))
            await send(message)

        kept = [(k, v) for k, v in scope["headers"] if k.lower() not in RESERVED_HEADERS]
        await self._app({**scope, "headers": kept}, receive, send_with_one_id)


def _with_one_id(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The first id is the gateway's own; what Serve appended after it is dropped."""
    first = next((i for i, (k, _) in enumerate(headers) if k.lower() == REQUEST_ID), None)
    return [(k, v) for i, (k, v) in enumerate(headers) if k.lower() != REQUEST_ID or i == first]


def middlewares() -> list[Middleware]:
    """Called by Serve in every process that accepts HTTP."""
    return [Middleware(Edge)]
