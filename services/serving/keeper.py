"""What notices that models of the store have changed before a request does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from model_store.store import Store
from services.core.errors import AtelierError, ModelNotFound
from services.core.versions import of_version
from services.runtime.registry import Registry

PERIOD_SECONDS = 1.0

log = logging.getLogger(__name__)


class Keeper:
    """Keeps a replica's models as the store has them, in a thread of its own.

    From time to time it brings a remote store's mirror up to date, loads versions that take the
    place of those that are served and versions that are to be warm, and lets go of what is gone.
    Requests go on meanwhile, on the versions that are ready.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        *,
        pins: Mapping[str, str] | None = None,
        period: float = PERIOD_SECONDS,
    ) -> None:
        """Begin with `start`.

        Args:
            registry: the replica's models.
            store: where they come from.
            pins: versions that are served whatever is stored, by the models' names; kept warm too.
            period: seconds between two looks.
        """
        self._registry, self._store, self._period = registry, store, period
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="atelier-keeper", daemon=True)
        self._pins = [of_version(name, digits) for name, digits in (pins or {}).items()]
        self._told: dict[str, str] = {}

    def start(self) -> Keeper:
        """Look from now on, until `close`."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Look no more. A model that is just being loaded is loaded to its end."""
        self._ended.set()

    def look(self) -> None:
        """Look once."""
        self._store.refresh()
        self._registry.catch_up(self._tell)
        for reference in self._pins:
            self._warm(reference)
        for name in self._store.plans.names():
            try:
                wanted = self._store.plans.get(name).wanted()
            except AtelierError as error:
                self._tell(name, error)
                continue
            for reference in wanted:
                self._warm(reference)

    def _warm(self, reference: str) -> None:
        try:
            if self._registry.is_due(self._registry.find(reference)):
                self._registry.load(reference)
                self._told.pop(reference, None)
        except ModelNotFound as error:  # of another pool, or not there (yet)
            log.debug("model '%s' is not kept warm: %s", reference, error)
        except AtelierError as error:
            self._tell(reference, error)

    def _tell(self, what: str, error: Exception) -> None:
        """Log an error once, and again only when it is another."""
        if self._told.get(what) != str(error):
            self._told[what] = str(error)
            log.warning("model '%s' could not be loaded, and is tried again: %s", what, error)

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            try:
                self.look()
            except Exception:
                log.exception("the store could not be looked at; trying again")
