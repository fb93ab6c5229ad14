"""Writing down who asked for what, before the answer leaves."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.core.errors import AuditUnavailable
from services.gateway.audit_log import AuditLog
from services.gateway.errors import error_response
from services.gateway.exchange import NO_TASK, Exchange, exchange_in
from services.gateway.negotiation import EVENT_STREAM

CLIENT_GONE = 499

_LOG = logging.getLogger(__name__)


class Audit:
    """Writes one line for each request that asked for work, two for a stream.

    The line of an answer is written before its first byte leaves, so nothing is answered that is
    not in the log; that of a stream when it begins (``stream.begun``) and when it ends
    (``stream.ended``), with the status that it ended in. Where the log cannot be written, the
    client gets a 503 in place of the answer, unless the settings say to go on.
    """

    def __init__(self, app: ASGIApp, *, log: AuditLog | None) -> None:
        """Take the log; without one this does nothing."""
        self._app, self._log = app, log
        self._last_words: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or self._log is None:
            await self._app(scope, receive, send)
            return
        exchange = exchange_in(scope)
        answer = _Answer(self._log, scope, exchange, receive, send)
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            if exchange.task != NO_TASK and not answer.ended:
                task = asyncio.create_task(answer.note("request", CLIENT_GONE))
                self._last_words.add(task)
                task.add_done_callback(self._last_words.discard)
            raise
        except Exception:
            if exchange.task != NO_TASK and not answer.ended:
                await answer.note("request", 500)
            raise
        if answer.is_stream:
            await answer.note("stream.ended", exchange.fate or answer.status)


class _Answer:
    """An ASGI ``send`` that writes a line before it lets the first message pass."""

    def __init__(
        self, log: AuditLog, scope: Scope, exchange: Exchange, receive: Receive, send: Send
    ) -> None:
        self._log, self._scope, self._exchange = log, scope, exchange
        self._receive, self._send = receive, send
        self._dropped = False
        self.status = 0
        self.is_stream = False
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if self._dropped:
            return
        if message["type"] == "http.response.start" and self._exchange.task != NO_TASK:
            self.status = message["status"]
            media_type = Headers(raw=message["headers"]).get("content-type", "")
            self.is_stream = media_type.startswith(EVENT_STREAM)
            self.ended = not self.is_stream
            try:
                kind = "stream.begun" if self.is_stream else self._exchange.account.event
                await self._log.record(self._event(kind, self.status))
            except AuditUnavailable as error:
                if self._log.settings.on_failure == "refuse":
                    await self._refuse(error)
                    return
        await self._send(message)

    async def note(self, kind: str, status: int) -> None:
        """Write a line that nothing waits for any more."""
        try:
            await self._log.record(self._event(kind, status))
        except AuditUnavailable:
            _LOG.exception("request %s is missing in the audit log", self._exchange.id)

    async def _refuse(self, error: AuditUnavailable) -> None:
        """Send the refusal in place of the answer, and nothing of the answer after it.

        Raises:
            AuditUnavailable: the answer is a stream, whose work has to end.
        """
        self._dropped, self._exchange.fate = True, 503
        refusal = error_response(error, self._scope["path"])
        await refusal(self._scope, self._receive, self._send)
        if self.is_stream:
            self.is_stream, self.ended = False, True
            raise error

    def _event(self, kind: str, status: int) -> dict[str, Any]:
        exchange, account = self._exchange, self._exchange.account
        event: dict[str, Any] = {
            "event": kind,
            "request_id": exchange.id,
            "owner": exchange.owner,
            "route": f"{self._scope['method']} {_route(self._scope)}",
            "model": exchange.model,
            "task": exchange.task,
            "n": account.images,
            "seed": account.seed,
            "decision": account.decision,
            "policy": account.policy,
            "review": account.review,
            "job": account.job,
            "status": status,
            "device_seconds": round(exchange.device_seconds or 0.0, 6),
        }
        if self._log.settings.prompts:
            event["prompts"] = {name: list(texts) for name, texts in account.texts.items()}
        return event


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unmatched"))
