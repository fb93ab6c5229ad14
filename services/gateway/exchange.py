"""What the gateway knows of one request while it is being answered."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from fastapi import Request
from starlette.types import Scope

from services.core.backend import Backend
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings

STATE_KEY = "exchange"


@dataclass(frozen=True, slots=True)
class Gateway:
    """What every route needs: the backend, the settings and the metrics."""

    backend: Backend
    settings: GatewaySettings
    metrics: GatewayMetrics


@dataclass(slots=True)
class Exchange:
    """One request: its id, when it arrived (``time.monotonic``), and its labels for metrics.

    ``model`` stays "unknown" until the backend has confirmed the model; so no client can invent a
    label. ``fate`` is the status that the exchange is counted under where that is not the one that
    was sent: a stream begins with 200 before anybody knows how it ends.
    """

    id: str
    arrival: float = field(default_factory=time.monotonic)
    model: str = "unknown"
    task: str = "none"
    fate: int | None = None

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.arrival


def exchange_in(scope: Scope) -> Exchange:
    """The exchange that `RequestIdentity` put into the scope."""
    exchange = scope["state"][STATE_KEY]
    if not isinstance(exchange, Exchange):
        raise TypeError("the scope's state holds no exchange; this is a bug")
    return exchange


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    return exchange_in(request.scope)
