"""Several backends as one: every call goes to the pool that has its model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.core.backend import Backend, PoolStatus
from services.core.errors import ModelNotFound
from services.core.job import Answer, Call, Event, Watch
from services.core.model import DocumentKind, ModelInfo
from services.core.validation import near
from services.core.versions import SEPARATOR, split_version


@dataclass(frozen=True, slots=True)
class Route:
    """A pool's backend and the models that it names; none for the pool that takes the rest."""

    backend: Backend
    models: frozenset[str]


class Pools:
    """Implements `services.core.backend.Backend` over the pools of a deployment."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Take at least one route; at most one of them takes the rest."""
        self._routes = routes

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`."""
        return await self._backend(call.model).run(call)

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`."""
        async with aclosing(self._backend(call.model).stream(call, watch)) as events:
            async for event in events:
                yield event

    async def models(self) -> Sequence[ModelInfo]:
        """See `Backend.models`."""
        found = await asyncio.gather(*(route.backend.models() for route in self._routes))
        return sorted((info for infos in found for info in infos), key=lambda info: info.id)

    async def model(self, name: str) -> ModelInfo:
        """See `Backend.model`."""
        try:
            return await self._backend(name).model(name)
        except ModelNotFound as error:
            if SEPARATOR in name:
                raise
            known = [info.id for info in await self.models()]
            offers = near(name, known)
            hint = f"; did you mean {' or '.join(offers)}?" if offers else ""
            message = f"there is no model '{name[:80]}'{hint}"
            raise ModelNotFound(message, param="model") from error

    async def document(self, name: str, kind: DocumentKind) -> bytes:
        """See `Backend.document`."""
        return await self._backend(name).document(name, kind)

    async def status(self) -> Sequence[PoolStatus]:
        """See `Backend.status`."""
        found = await asyncio.gather(*(route.backend.status() for route in self._routes))
        return [status for statuses in found for status in statuses]

    async def ready(self) -> bool:
        """See `Backend.ready`."""
        return all(await asyncio.gather(*(route.backend.ready() for route in self._routes)))

    def _backend(self, model: str) -> Backend:
        model, _ = split_version(model)
        rest: Backend | None = None
        for route in self._routes:
            if model in route.models:
                return route.backend
            if not route.models:
                rest = route.backend
        if rest is None:
            raise ModelNotFound(f"there is no model '{model[:80]}'", param="model")
        return rest
