"""Events between what works and what reads, which may be much slower.

Whoever puts never waits. Of each row only the latest progress and the latest previews are kept, so
what waits to be read is bounded by the number of rows, not by the number of steps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from threading import Lock

from services.core.images import Pixels
from services.core.job import CallFinished, Event, Preview, Progress, Queued

PREVIEWS_KEPT = 4
"""Unread previews of a row; more than OpenAI's clients ask for in all."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A preview that is not encoded yet: only those that are read are worth it."""

    row: int
    step: int
    steps: int
    index: int
    pixels: Pixels


class Mailbox:
    """Holds what was not read yet. Made on the reader's event loop; filled from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._filled = asyncio.Event()
        self._progress: dict[int, Progress] = {}
        self._looks: dict[int, deque[Preview | Glimpse]] = {}
        self._rest: list[Event] = []
        self._error: BaseException | None = None

    def put(self, event: Event | Glimpse) -> None:
        """Leave an event; older progress of its row gives way."""
        with self._lock:
            if isinstance(event, Progress):
                self._progress[event.row] = event
            elif isinstance(event, Preview | Glimpse):
                looks = self._looks.setdefault(event.row, deque(maxlen=PREVIEWS_KEPT))
                looks.append(event)
            else:
                self._rest.append(event)
        self._wake()

    def fail(self, error: BaseException) -> None:
        """What the reader gets once it has read everything before it."""
        with self._lock:
            self._error = error
        self._wake()

    async def batches(self) -> AsyncGenerator[list[Event | Glimpse], None]:
        """All that has come since the last look, in order, until `CallFinished`.

        Raises:
            BaseException: what `fail` was given.
        """
        while True:
            await self._filled.wait()
            self._filled.clear()
            events, error = self._empty()
            if events:
                yield events
            if events and isinstance(events[-1], CallFinished):
                return
            if error is not None:
                raise error

    def _wake(self) -> None:
        # A reader takes the flag down before it looks, so while it is up everything will be seen.
        if not self._filled.is_set():
            self._loop.call_soon_threadsafe(self._filled.set)

    def _empty(self) -> tuple[list[Event | Glimpse], BaseException | None]:
        with self._lock:
            looks = [look for row in self._looks.values() for look in row]
            steps = sorted([*looks, *self._progress.values()], key=lambda e: (e.step, e.row))
            queued = [event for event in self._rest if isinstance(event, Queued)]
            events = [*queued, *steps, *(e for e in self._rest if not isinstance(e, Queued))]
            self._progress, self._looks, self._rest = {}, {}, []
            return events, self._error
