"""One HTTP exchange with an application, message by message: the client can stop reading, or leave.

`starlette.testclient` waits for the whole answer, which these tests interrupt.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

PATIENCE = 60.0


class Connection:
    """A client's side of one exchange.

    Attributes:
        inbox: what the application will receive.
        sent: what it has sent.
        reading: cleared while the client takes nothing.
    """

    def __init__(
        self,
        path: str = "/v1/generate",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> None:
        """Send a JSON body, but for a model that the body need not name."""
        content = json.dumps({"model": "shapes-ldm", **body}).encode()
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox.put_nowait({"type": "http.request", "body": content, "more_body": False})
        self.sent: list[dict[str, Any]] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.arrived = asyncio.Event()
        given = {"content-type": "application/json", **(headers or {})}
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
        }

    def open(self, app: Any) -> asyncio.Task[None]:
        """Begin the exchange."""

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)
            self.arrived.set()
            await self.reading.wait()

        return asyncio.create_task(app(self._scope, self.inbox.get, send))

    def send_instead(self, *messages: dict[str, Any]) -> None:
        """Have the application receive these in place of the body."""
        self.inbox.get_nowait()
        for message in messages:
            self.inbox.put_nowait(message)

    def hang_up(self) -> None:
        """Leave."""
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def until(self, said: bytes) -> None:
        """Wait until the application has said something."""
        while said not in self.said:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), PATIENCE)

    @property
    def status(self) -> int:
        """Of the answer."""
        return int(self.sent[0]["status"])

    @property
    def said(self) -> bytes:
        """The body so far."""
        return b"".join(message.get("body", b"") for message in self.sent)


async def exchanged(app: Any, path: str, **what: Any) -> Connection:
    """A whole exchange with an application."""
    connection = Connection(path, **what)
    await asyncio.wait_for(connection.open(app), PATIENCE)
    return connection


def skip(seconds: float) -> None:
    """Move the clock of this loop forward: what it was to do within that time is due now."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]  # the loop asks itself


def other_tasks() -> set[asyncio.Task[Any]]:
    """Every task of this loop but the caller's."""
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]  # it is a task
