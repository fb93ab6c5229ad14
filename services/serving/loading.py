"""Which version of a model a call gets, and when models are loaded: before calls, or for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from services.core.errors import AtelierError
from services.core.job import Job
from services.runtime.registry import LoadedModel, Registry

EVERY_MODEL = "*"

log = logging.getLogger(__name__)


class Loading:
    """Loads a registry's models off the event loop.

    Args:
        registry: what holds the models.
        preload: which of them are loaded before any call; ``*`` is all.

    Attributes:
        preloaded: whether those that were asked for are there.
    """

    def __init__(self, registry: Registry, preload: Sequence[str]) -> None:
        self._registry = registry
        self._preload = preload
        self.preloaded = not preload

    def preload(self) -> None:
        """Load the models that were asked for, one after the other.

        Among all models (``*``) one that cannot be loaded is passed over: it must not keep the
        others from being served.

        Raises:
            ModelNotFound, ModelError: a model that was asked for by name cannot be loaded.
        """
        for name in self._preload:
            if name != EVERY_MODEL:
                self._registry.load(name)
        if EVERY_MODEL in self._preload:
            for name in self._registry.names():
                try:
                    self._registry.load(name)
                except AtelierError as error:
                    log.warning("model '%s' is not preloaded: %s", name, error)
        self.preloaded = True

    async def answering(self, name: str) -> LoadedModel:
        """A model that is ready to work.

        While a version that takes another's place is not ready, that is the one before it; the
        first call has the new one loaded beside the calls.

        Raises:
            ModelNotFound, ModelError: see `Registry.load`.
        """
        wanted, loop = self._registry.find(name), asyncio.get_running_loop()
        if wanted.ready:
            return self._registry.load(name)
        standing_in = self._registry.serving(name)
        if standing_in is wanted or not standing_in.ready:
            return await loop.run_in_executor(None, self._registry.load, name)
        if not wanted.begun:
            wanted.begun = True
            loop.run_in_executor(None, self._registry.catch_up)
        return standing_in

    async def open_late(self, model: LoadedModel, job: Job[Any]) -> None:
        """Open the part of a model that a job needs, where it is not open yet.

        Raises:
            ModelError: see `Engine.open_late`.
        """
        part = self._registry.late_part(model, job)
        if part is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._registry.open_late, model, part)
