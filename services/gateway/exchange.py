"""What the gateway knows of the requests that it is answering."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from fastapi import Request
from starlette.types import Scope

from services.core.backend import Backend
from services.core.job import Call, Timings
from services.core.trace_context import Carrier
from services.gateway.accounts import Account
from services.gateway.callers import ANYBODY, Caller
from services.gateway.metering import Meter
from services.gateway.metrics import GatewayMetrics
from services.gateway.quotas import Level
from services.gateway.settings import GatewaySettings
from services.jobs.interface import Jobs
from services.policies.interface import ALLOWED, Decision
from services.provenance.stamping import OFF, ProvenanceStatus

STATE_KEY = "exchange"
NO_TASK = "none"

Withdraw = Callable[[str, str], Awaitable[bool]]
"""`InFlight.withdraw`, wherever the request is being answered."""

Foresee = Callable[[Call], Awaitable[Decision]]
"""`services.policies.guard.Guarded.foresee`."""


@dataclass(slots=True)
class Exchange:
    """One request: its id, when it arrived (``time.monotonic``), and its labels for metrics.

    ``model`` stays "unknown" until the backend has confirmed the model; so no client can invent a
    label. ``version`` is the digest of the version that the client asked for, empty for whatever is
    served. ``fate`` is the status that the exchange is counted under where that is not the one that
    was sent: a stream begins with 200 before anybody knows how it ends. ``caller`` is who sent the
    request, ``levels`` what is left of its quotas, by their names. ``withdrawn`` is set once
    somebody has asked that the answer be no longer worked on. ``trace`` names the span that the
    work is to be below; ``timings`` and ``device_seconds`` are what it took, once that is known.
    ``account`` is what the audit log says of it.
    """

    id: str
    arrival: float = field(default_factory=time.monotonic)
    model: str = "unknown"
    version: str = ""
    task: str = NO_TASK
    fate: int | None = None
    caller: Caller = ANYBODY
    levels: dict[str, Level] = field(default_factory=dict)
    withdrawn: asyncio.Event = field(default_factory=asyncio.Event)
    trace: Carrier = field(default_factory=dict)
    timings: Timings | None = None
    device_seconds: float | None = None
    account: Account = field(default_factory=Account)

    @property
    def owner(self) -> str:
        """Whose request it is: one owner's requests are nobody else's to touch."""
        return self.caller.owner

    def worked(self, timings: Timings, device_seconds: float) -> None:
        """A call of this request is done; of several beside each other, the slowest counts."""
        others = self.timings or Timings()
        self.timings = Timings(
            **{
                stage.name: max(getattr(others, stage.name), getattr(timings, stage.name))
                for stage in fields(Timings)
            }
        )
        self.device_seconds = (self.device_seconds or 0.0) + device_seconds

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.arrival


class InFlight:
    """The exchanges of one process. For its event loop alone; nothing here waits."""

    def __init__(self) -> None:
        """Begin with none."""
        self._exchanges: dict[str, list[Exchange]] = {}

    @contextmanager
    def entered(self, exchange: Exchange) -> Iterator[None]:
        """Know an exchange until its answer has been sent."""
        self._exchanges.setdefault(exchange.id, []).append(exchange)
        try:
            yield
        finally:
            others = self._exchanges[exchange.id]
            others[:] = [other for other in others if other is not exchange]
            if not others:
                del self._exchanges[exchange.id]

    def withdraw(self, request_id: str, owner: str) -> bool:
        """Withdraw the call of that id; false where there is none.

        Args:
            request_id: as the client gave it, or was told it.
            owner: who asks; what another's key has begun is not theirs to end.
        """
        found = [
            exchange
            for exchange in self._exchanges.get(request_id, ())
            if exchange.task != NO_TASK and exchange.owner == owner
        ]
        for exchange in found:
            exchange.withdrawn.set()
        return bool(found)


async def nowhere(request_id: str, owner: str) -> bool:  # noqa: ARG001 - a `Withdraw`
    """For a gateway of one replica: no request is being answered by another."""
    return False


async def allowed(call: Call) -> Decision:  # noqa: ARG001 - a `Foresee`
    """For a gateway without policies: whatever is asked for may be made."""
    return ALLOWED


@dataclass(frozen=True, slots=True)
class Gateway:
    """What every route needs: the backend, settings, metrics, quotas, and who is being answered.

    ``elsewhere`` withdraws a request that another replica of the gateway is answering;
    ``provenance`` is what images say of where they come from; ``jobs`` are there unless switched
    off; ``foresee`` judges what is to be made later.
    """

    backend: Backend
    settings: GatewaySettings
    metrics: GatewayMetrics
    meter: Meter
    in_flight: InFlight = field(default_factory=InFlight)
    elsewhere: Withdraw = nowhere
    provenance: ProvenanceStatus = OFF
    jobs: Jobs | None = None
    foresee: Foresee = allowed

    @property
    def durable(self) -> Jobs:
        """The jobs, for routes that are only there where jobs are."""
        if self.jobs is None:
            raise RuntimeError("a route of jobs without jobs; this is a bug")
        return self.jobs


def exchange_in(scope: Scope) -> Exchange:
    """The exchange that `RequestIdentity` put into the scope."""
    exchange = scope["state"][STATE_KEY]
    if not isinstance(exchange, Exchange):
        raise TypeError("the scope's state holds no exchange; this is a bug")
    return exchange


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    return exchange_in(request.scope)
