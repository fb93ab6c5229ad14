"""Whether and when a request is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx

RETRIED_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
RETRIED_FAILURES = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.RemoteProtocolError,
)
"""A request that timed out is not sent again: the server may still be at work on it."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent again, and after how long.

    Attributes:
        most: attempts beyond the first.
        first_pause: seconds before the second attempt; each pause is twice the one before.
        longest_pause: seconds; also the longest ``Retry-After`` that is waited for.
    """

    most: int = 2
    first_pause: float = 0.5
    longest_pause: float = 120.0

    def pause(self, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds to wait before the next attempt, or ``None`` where there is none.

        Args:
            attempt: how many there were, from 1.
            outcome: of the last one; a response that is no error needs no attempt.
        """
        if attempt > self.most:
            return None
        doubled: float = self.first_pause * 2 ** (attempt - 1)
        backoff = min(doubled, self.longest_pause)
        pause = backoff * random.uniform(0.75, 1.0)  # noqa: S311 - spreads clients, guards nothing
        if isinstance(outcome, httpx.TransportError):
            return pause if isinstance(outcome, RETRIED_FAILURES) else None
        told = outcome.headers.get("x-should-retry")
        if told == "false" or (told != "true" and outcome.status_code not in RETRIED_STATUS):
            return None
        wait = outcome.headers.get("retry-after", "")
        if not wait.isdecimal():
            return pause
        return float(wait) if float(wait) <= self.longest_pause else None
