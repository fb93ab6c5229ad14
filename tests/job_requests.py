"""What the tests of jobs in real databases share: fast settings, requests, and waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from services.jobs.settings import JobSettings
from services.jobs.words import JobRequest

OWNER = "owner"
PATIENCE = 60.0
"""Seconds after which a test gives up on something that should have happened soon."""


def chosen(**more: Any) -> JobSettings:
    """Settings of jobs under which nothing takes long."""
    fast = {"poll_seconds": 0.05, "sweep_seconds": 0.1, "lease_seconds": 1.0}
    return JobSettings.model_validate({**fast, **more})


def request(**more: Any) -> JobRequest:
    """A job of `OWNER`, but for what is given."""
    fields = {"owner": OWNER, "kind": "generate", "model": "m", "body": {"x": 1}, **more}
    return JobRequest(**fields)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Wait for something to be true, and give it."""
    end = time.monotonic() + PATIENCE
    while not (found := await condition()):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    return found
