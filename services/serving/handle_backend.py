"""The backend over Ray Serve: a deployment handle to a pool apart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from services.core.backend import PoolStatus
from services.core.errors import QueueFull, Unavailable, from_json
from services.core.job import Answer, Call
from services.core.model import ModelInfo
from services.serving.wire import (
    pack_call,
    unpack_model,
    unpack_outcome,
    unpack_status,
)

T = TypeVar("T")

ATTEMPTS = 2
RETRY_AFTER_SECONDS = 5.0
LOOK_SECONDS = 5.0
"""A question about a pool, unlike work for it, is not worth waiting for longer."""


class HandleBackend:
    """Implements `services.core.backend.Backend`.

    A replica that dies takes its calls with it. They are asked once more: the gateway fixed the
    seed, so a second answer is the first one.
    """

    def __init__(self, handle: DeploymentHandle[Any], name: str) -> None:
        """Reach a pool by its handle."""
        self._handle, self._name = handle, name

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`."""
        packed = pack_call(call)
        return unpack_outcome(await self._retried(lambda: self._handle.run.remote(packed)))

    async def models(self) -> Sequence[ModelInfo]:
        """See `Backend.models`."""
        found = await self._look(self._handle.models.remote)
        return [unpack_model(plain) for plain in found]

    async def model(self, name: str) -> ModelInfo:
        """See `Backend.model`."""
        found = await self._look(lambda: self._handle.model.remote(name))
        if "error" in found:
            raise from_json(found["error"])
        return unpack_model(found["model"])

    async def status(self) -> Sequence[PoolStatus]:
        """See `Backend.status`. A pool without a replica shows zero of them."""
        try:
            found = await self._look(self._handle.status.remote)
        except Unavailable:
            return [PoolStatus(self._name, "apart", 0, (), 0.0, 0, 0.0)]
        return [unpack_status(plain) for plain in found]

    async def ready(self) -> bool:
        """See `Backend.ready`."""
        return all(status.replicas for status in await self.status())

    async def _look(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self._retried(ask)
        except TimeoutError as error:
            raise self._unavailable() from error

    async def _retried(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await _withdrawable(ask())
            except BackPressureError as error:
                message = f"pool '{self._name}' holds as many requests as it may"
                raise QueueFull(message, retry_after=1.0) from error
            except (RayActorError, DeploymentUnavailableError) as error:
                if attempt == ATTEMPTS:
                    raise self._unavailable() from error
            except RayError as error:
                raise self._unavailable() from error
        raise self._unavailable()

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"no replica of pool '{self._name}' is available; it is being restarted",
            retry_after=RETRY_AFTER_SECONDS,
        )


async def _withdrawable(response: Awaitable[T]) -> T:
    """Await a response; when the caller is cancelled, the replica is told."""
    try:
        return await response
    except asyncio.CancelledError:
        if isinstance(response, DeploymentResponse):
            response.cancel()
        raise
