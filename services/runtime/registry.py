"""The models that a device holds: opened on first use, measured, and let go when room is short."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock, RLock
from typing import Any

import torch

from services.core.decoder import Decoder
from services.core.engine import Engine
from services.core.errors import InvalidManifest, ModelNotFound
from services.core.images import ImageLimits
from services.core.job import Job
from services.core.model import DocumentKind, ModelInfo
from services.core.source import ModelSource
from services.core.validation import near
from services.runtime.caps import RowCaps
from services.runtime.cost import Costs, measure


@dataclass(eq=False)
class LoadedModel:
    """An engine with what was measured of it.

    ``caps`` are row limits that a lack of memory taught; ``parts`` were opened late, see
    `Engine.late_part`.
    """

    engine: Engine
    fingerprint: str
    costs: Costs = field(default_factory=Costs)
    caps: RowCaps = field(default_factory=RowCaps)
    ready: bool = False
    used: float = 0.0
    live: int = 0
    opening: Lock = field(default_factory=Lock)
    parts: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        """The model's name."""
        return self.engine.model.id

    @cached_property
    def info(self) -> ModelInfo:
        """What the model says of itself; the schemas in it take milliseconds to make."""
        return self.engine.describe()


class Registry:
    """Engines by model name.

    Args:
        source: where models come from.
        families: engine classes by family name.
        device: what the engines run on.
        device_lock: held during every evaluation on that device.
        only: the models to offer; ``None`` for all that the source has.
        without: models that are never offered here.
        max_loaded: models held at once; past it the least recently used idle one is let go.
        limits: for uploaded images.
        decoder: of uploaded images, where the engines are not to decode them themselves.
        on_load: told the model and the seconds that loading took.
    """

    def __init__(  # noqa: PLR0913 - each is a decision of its own, made by the caller
        self,
        source: ModelSource,
        families: Mapping[str, type[Engine]],
        device: torch.device,
        device_lock: Lock,
        *,
        only: Sequence[str] | None = None,
        without: Collection[str] = (),
        max_loaded: int = 64,
        limits: ImageLimits | None = None,
        decoder: Decoder | None = None,
        on_load: Callable[[str, float], None] = lambda model, seconds: None,
    ) -> None:
        self._source = source
        self._families = families
        self._device = device
        self._device_lock = device_lock
        self._only = set(only) if only is not None else None
        self._without = set(without)
        self._max_loaded = max_loaded
        self._limits = limits or ImageLimits()
        self._decoder = decoder
        self._on_load = on_load
        self._models: dict[str, LoadedModel] = {}
        self._lock = RLock()

    def names(self) -> list[str]:
        """The models on offer, sorted."""
        return [name for name in self._source.names() if self._offers(name)]

    def document(self, name: str, kind: DocumentKind) -> bytes:
        """What comes with a model for people; reads a file.

        Raises:
            ModelNotFound, DocumentNotFound, ModelError: see `ModelSource.document`.
        """
        self.find(name)
        return self._source.document(name, kind)

    def loaded(self) -> list[str]:
        """The models that are ready to work."""
        with self._lock:
            return sorted(name for name, model in self._models.items() if model.ready)

    def describe(self, name: str) -> ModelInfo:
        """What a model says of itself; opens no network."""
        return self.find(name).info

    def find(self, name: str) -> LoadedModel:
        """A model, described but perhaps not loaded. Picks up a changed one.

        Raises:
            ModelNotFound: not on offer here.
            ModelError: its manifest cannot be used.
        """
        if not self._offers(name):
            raise self._unknown(name)
        try:
            fingerprint = self._source.fingerprint(name)
        except ModelNotFound:
            with self._lock:
                self._models.pop(name, None)
            raise
        with self._lock:
            known = self._models.get(name)
            if known is not None and known.fingerprint == fingerprint:
                return known
            model = LoadedModel(self._engine(name), fingerprint)
            self._models[name] = model
            return model

    def load(self, name: str) -> LoadedModel:
        """A model that is ready to work; the first call opens and measures it, others wait.

        Raises:
            ModelNotFound, ModelError: see `find` and `Engine.setup`.
        """
        model = self.find(name)
        model.used = time.monotonic()
        if model.ready:
            return model
        with model.opening:
            if not model.ready:
                started = time.monotonic()
                self._make_room(model)
                model.engine.setup()
                engine = model.engine
                model.costs = measure(engine, engine.rehearsal(), self._device_lock)
                model.ready = True
                self._on_load(name, time.monotonic() - started)
        return model

    def late_part(self, model: LoadedModel, job: Job[Any]) -> str | None:
        """The part of a model that a job needs and that is not open yet; ``None`` for most jobs."""
        part = model.engine.late_part(job)
        return None if part in model.parts else part

    def open_late(self, model: LoadedModel, part: str) -> None:
        """Open a part of a model and measure its costs; others who need it wait.

        Raises:
            ModelError: see `Engine.open_late`.
        """
        with model.opening:
            if part not in model.parts:
                rehearsal = model.engine.open_late(part)
                model.costs.add(measure(model.engine, rehearsal, self._device_lock))
                model.parts.add(part)

    def _offers(self, name: str) -> bool:
        return name not in self._without and (self._only is None or name in self._only)

    def _engine(self, name: str) -> Engine:
        opened = self._source.open(name, self._device)
        if opened.family not in self._families:
            known = ", ".join(sorted(self._families))
            raise InvalidManifest(f"'{name}' is of family '{opened.family}'; known are {known}")
        engine = self._families[opened.family](opened, self._device, self._limits)
        engine.device_lock = self._device_lock
        if self._decoder is not None:
            engine.image_decoder = self._decoder
        return engine

    def _make_room(self, newcomer: LoadedModel) -> None:
        with self._lock:
            held = [m for m in self._models.values() if m.ready and m is not newcomer]
            idle = sorted((m for m in held if not m.live), key=lambda m: m.used)
            for model in idle[: max(0, len(held) + 1 - self._max_loaded)]:
                self._models.pop(model.id, None)

    def _unknown(self, name: str) -> ModelNotFound:
        offers = near(name, self.names())
        hint = f"; did you mean {' or '.join(offers)}?" if offers else ""
        return ModelNotFound(f"there is no model '{name[:80]}'{hint}", param="model")
