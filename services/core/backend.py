"""The one protocol through which a gateway reaches engines. No torch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.core.job import Answer, Call, Event, Watch
from services.core.model import DocumentKind, ModelInfo


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How a pool is doing.

    ``queue_seconds`` is the predicted device time of everything accepted and unfinished;
    ``heartbeat_age`` the seconds since the loop last gave a sign of life.
    """

    name: str
    placement: str
    replicas: int
    loaded: tuple[str, ...]
    queue_seconds: float
    trajectories: int
    heartbeat_age: float


class Backend(Protocol):
    """Takes calls and answers them, wherever the engines are.

    Cancelling the task that awaits `run` withdraws the call: its rows leave the batch within one
    step.
    """

    async def run(self, call: Call) -> Answer:
        """Do the work.

        Raises:
            AtelierError: the call was refused, failed, or was withdrawn.
        """
        ...

    def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """Do the work and tell of it: `Queued`, then what happens, at last `CallFinished`.

        A row's image comes as soon as the row is done. Whoever reads slowly sees the latest
        progress and the latest previews of each row, never an old backlog. Closing the generator
        withdraws the call, as cancelling does for `run`.

        Raises:
            AtelierError: as `run`; before the first event if the call was refused.
        """
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """Every model that can be asked for, sorted by name."""
        ...

    async def model(self, name: str) -> ModelInfo:
        """One model.

        Raises:
            ModelNotFound: there is none of that name; the message offers near names.
        """
        ...

    async def document(self, name: str, kind: DocumentKind) -> bytes:
        """What comes with a model for people, as it is stored.

        Raises:
            ModelNotFound: there is no such model.
            DocumentNotFound: it comes without one.
            ModelError: the file is not the one that its manifest names.
        """
        ...

    async def status(self) -> Sequence[PoolStatus]:
        """One entry per pool."""
        ...

    async def ready(self) -> bool:
        """Whether a call would be taken now."""
        ...


class BackendOver:
    """Base of a backend over another: what is not about calls is the other's answer."""

    def __init__(self, backend: Backend) -> None:
        """Take the other."""
        self._backend = backend

    async def models(self) -> Sequence[ModelInfo]:
        """See `Backend.models`."""
        return await self._backend.models()

    async def model(self, name: str) -> ModelInfo:
        """See `Backend.model`."""
        return await self._backend.model(name)

    async def document(self, name: str, kind: DocumentKind) -> bytes:
        """See `Backend.document`."""
        return await self._backend.document(name, kind)

    async def status(self) -> Sequence[PoolStatus]:
        """See `Backend.status`."""
        return await self._backend.status()

    async def ready(self) -> bool:
        """See `Backend.ready`."""
        return await self._backend.ready()
